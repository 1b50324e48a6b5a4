"""Everything in one go: ``uv run --group bench python -m benchmarks``.

It prints the tables, and writes them, the figures as JSON and a plot to ``--out``. Each library is measured in a
process in which no other is imported. What has been measured is kept there, by row, so that the same command goes on
where it was stopped; ``--fresh`` begins anew. A row takes ``--seconds`` at most, but for two rounds, and a benchmark
``--limit``. ``--quick`` takes a third of the rounds. ``--check`` warns where zoo is slower
against the others than ``results/figures.json`` says, by more than the spread. ``--guard`` does so for loading a few
models alone, within a minute.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import Row, journal, plot, read, regressions, save

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


@dataclass(frozen=True)
class Part:
    """One benchmark of the whole run, in a process of its own on one thread.

    Attributes:
        name: Of the files that keep what it printed and its rows.
        words: Module and arguments.
    """

    name: str
    words: tuple[str, ...]

    def text(self, folder: Path, options: argparse.Namespace) -> str:
        """What it prints; kept when it has ended, so that a run which was stopped goes on after it."""
        done = folder / f"{self.name}.md"
        if done.exists():
            return done.read_text(encoding="utf-8")
        module, *words = self.words
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *words]
        print("running", *command[3:], file=sys.stderr, flush=True)
        limits = {"ZOO_BENCH_SECONDS": str(options.seconds), "ZOO_BENCH_JOURNAL": str(self.journal(folder).absolute())}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **limits}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said, _ = process.communicate(timeout=options.limit)
        except BaseException as error:  # Ctrl-C too
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it measures in
            said, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"{self.name} did not end in {options.limit} s; the same command goes on with it\n{said}"
        if process.returncode:
            return f"{self.name} failed with {process.returncode}\n{said}"
        done.write_text(said, encoding="utf-8")
        return said

    def journal(self, folder: Path) -> Path:
        """The file of its rows."""
        return folder / f"{self.name}.jsonl"


def parts(*, quick: bool) -> list[Part]:
    """Every benchmark, those that have peers in the plot first."""
    rounds, images = (3, 192) if quick else (9, 1000)
    count = ("--rounds", str(rounds))
    found = [Part(f"load-{peer}", ("load", "--peer", peer, *count)) for peer in PEERS]
    found += [Part(name, (name, *count)) for name in ("start", "own", "saving")]
    found.append(Part("predict", ("predict", "--images", str(images), *count)))
    found += [Part(name, (name, *count)) for name in ("download", "around", "frozen")]
    found.append(Part("training", ("training", "--images", str(images // 4), *count)))
    return [*found, Part("forward", ("forward", "--pairs", str(3 * rounds)))]


def main() -> None:
    """Run every benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--seconds", type=float, default=120, help="time for a row, after which no round begins")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a benchmark is ended")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    parser.add_argument("--only", nargs="+", help="names of benchmarks, such as predict or load-timm")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.guard:
        guard(options)
        return
    chosen = [part for part in parts(quick=options.quick) if not options.only or part.name in options.only]
    text, rows = run(chosen, options.out / ("quick" if options.quick else "whole"), options)
    print(text)
    (options.out / "tables.md").write_text(text, encoding="utf-8")
    save(rows, options.out / "figures.json")
    plot(rows, options.out / "figures.png")
    if options.check:
        warn(rows)


def run(chosen: list[Part], folder: Path, options: argparse.Namespace) -> tuple[str, list[Row]]:
    """What the benchmarks print, and their rows; each is kept in the folder when it has ended."""
    if options.fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [versions(), *(part.text(folder, options) for part in chosen)]
    return "\n\n".join(texts), [row for part in chosen for row in journal(part.journal(folder))]


def warn(rows: list[Row]) -> None:
    """Print where zoo is slower against the others than in the committed figures."""
    slower = regressions(rows, read(Path(__file__).parent / "results" / "figures.json"))
    print(*([f"warning: {line}" for line in slower] or ["nothing is slower than it was"]), sep="\n")


def guard(options: argparse.Namespace) -> None:
    """Measure what takes little time, and warn; nothing fails, for a machine may be busy."""
    options.fresh = True
    words = ("load", "--peer", "torchvision", "--rounds", "3", "--only")
    chosen = [Part(name, (*words, f"{name}, .pth")) for name in ("resnet18", "resnet50")]
    text, rows = run(chosen, options.out / "guard", options)
    print(text)
    warn(rows)


if __name__ == "__main__":
    main()
