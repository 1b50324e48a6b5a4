"""Everything in one go: ``uv run --group bench python -m benchmarks``.

It prints the tables, and writes them, the figures as JSON and a plot to ``--out``. Each library is measured in a
process in which no other is imported. ``--quick`` takes a third of the rounds. ``--check`` warns where zoo is slower
against the others than ``results/figures.json`` says, by more than the spread. ``--guard`` does so for loading a few
models alone, within a minute.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import Row, plot, read, regressions, save, table

PEERS = ("torchvision", "timm", "efficientnet_pytorch", "pretrainedmodels", "transformers")
LIBRARIES = ("torch", *PEERS, "huggingface_hub", "pooch", "safetensors")
ROOT = Path(__file__).parent.parent


def versions() -> str:
    """The date, the machine and what is installed on it."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    load = os.getloadavg()[0]
    return (
        f"{when}, {os.cpu_count()} cores of {platform.machine()}, load average {load:.0f}, "
        f"Python {platform.python_version()}, {', '.join(found)}"
    )


def run(module: str, *arguments: str) -> str:
    """What a benchmark prints, in a process of its own on one thread; a failure is printed and ends nothing."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *arguments]
    print("running", *command[3:], file=sys.stderr, flush=True)
    answer = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=False
    )
    return answer.stdout if answer.returncode == 0 else f"{module} failed with {answer.returncode}\n{answer.stdout}"


def main() -> None:
    """Run every benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--guard", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.guard:
        guard(options.out)
        return
    rounds = str(3 if options.quick else 9)
    text = [versions()]
    rows: list[Row] = []
    for peer in PEERS:
        path = (options.out / f"load-{peer}.json").absolute()
        said = run("load", "--peer", peer, "--rounds", rounds, "--json", str(path))
        rows += read(path) if path.exists() else []
        text += [] if path.exists() else [said]
    text += [table(rows)] if rows else []
    images = "192" if options.quick else "1000"
    for module, *words in (("start",), ("own",), ("saving",), ("predict", "--images", images), ("download",)):
        path = (options.out / f"{module}.json").absolute()
        text.append(run(module, *words, "--rounds", rounds, "--json", str(path)))
        rows += read(path) if path.exists() else []
    text += [run(module) for module in ("around", "frozen", "forward", "training")]
    print("\n\n".join(text))
    (options.out / "tables.md").write_text("\n\n".join(text), encoding="utf-8")
    save(rows, options.out / "figures.json")
    plot(rows, options.out / "figures.png")
    if options.check:
        warn(rows)


def warn(rows: list[Row]) -> None:
    """Print where zoo is slower against the others than in the committed figures."""
    slower = regressions(rows, read(Path(__file__).parent / "results" / "figures.json"))
    print(*([f"warning: {line}" for line in slower] or ["nothing is slower than it was"]), sep="\n")


def guard(folder: Path) -> None:
    """Measure what takes little time, and warn; nothing fails, for a machine may be busy."""
    rows: list[Row] = []
    for case in ("resnet18, .pth", "resnet50, .pth"):
        path = (folder / f"{case.partition(',')[0]}.json").absolute()
        print(run("load", "--peer", "torchvision", "--only", case, "--rounds", "5", "--json", str(path)))
        rows += read(path) if path.exists() else []
    warn(rows)


if __name__ == "__main__":
    main()
