"""Correctness and speed on a GPU in one run: tables of figures beside the peers, and then the gpu tests.

Run as ``python benchmarks/gpu.py`` on a machine with torch, torchvision and timm; it needs no network. It ends within
``--budget`` seconds, 540 unless told: what there was no time for is named, and tests that were under way when time
was up are counted. A peer that is missing or fails costs its own rows, and says why. ``--device cpu --quick`` shows on
any machine that the script itself is right. What a bare machine lacks is carried there as wheels; `docs/GPU.md` has
the commands, and what was seen.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # a script has its own folder there, and these are modules of the folder above

import torch  # noqa: E402 - the path comes first

from benchmarks import gpu_placing, gpu_running  # noqa: E402 - as above
from benchmarks.gpu_time import Clock, attempt  # noqa: E402 - as above

PLACING, RUNNING = 0.4, 0.25
"""Shares for the two kinds of figures, each of the time that is left; the tests have what these leave."""
_GOODBYE = 20
"""Seconds that pytest has to count what it has done."""


def main() -> None:
    """Print the tables and the tests' outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--rounds", type=int, default=5, help="the most turns that each side of a figure has")
    parser.add_argument("--quick", action="store_true", help="small models and few rounds: to try the script")
    parser.add_argument("--only", choices=("placing", "running", "tests"), help="one part, with all the time")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that run tests")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        gpu_placing.serve(*options.child)
        return
    clock, device = Clock(options.budget), torch.device(options.device)
    rounds = 2 if options.quick else options.rounds
    print(heading(device), flush=True)
    if options.only in (None, "placing"):
        gpu_placing.table(device, clock.share(PLACING if not options.only else 1), rounds, quick=options.quick)
    if options.only in (None, "running"):
        gpu_running.tables(device, clock.share(RUNNING if not options.only else 1), rounds, quick=options.quick)
    if options.only in (None, "tests"):
        with attempt("tests"):
            tests(device, clock, options.workers, quick=options.quick)
    print(f"\n{clock.spent():.0f} s in all", flush=True)


def heading(device: torch.device) -> str:
    """What ran this: device, versions, and which families can be used."""
    import zoo_core as zoo

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    names = ("torch", "torchvision", "timm", "efficientnet_pytorch", "pretrainedmodels", "transformers", "pytest")
    libraries = ", ".join(f"{name} {_version(name)}" for name in names)
    families = ", ".join(sorted({name.partition("/")[0] for name in zoo.list()}))
    runtime = f"CUDA {torch.version.cuda}" if device.type == "cuda" else "no CUDA"
    return (
        f"{card}; {runtime}; {os.cpu_count()} CPU cores; {time.strftime('%Y-%m-%d')}\n"
        f"Python {sys.version.split()[0]}, {libraries}\nfamilies: {families}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is missing"


def tests(device: torch.device, clock: Clock, workers: int, *, quick: bool) -> None:
    """Run the gpu tests, print what they say, and stop them when time is up."""
    print("\n## tests", flush=True)
    missing = [name for name in ("pytest", "xdist", "pytest_timeout", "sybil", "hypothesis") if find_spec(name) is None]
    if missing:
        print(f"not run: {', '.join(missing)} missing; docs/GPU.md says how to carry them here")
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    where = with_gpu_tests()
    if device.type != "cuda":
        environment["ZOO_TEST_DEVICE"] = str(device)
        where = ["tests/gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not full", "-W", "default", "-rfE", "--tb=short"]
    command += ["-n", str(workers), "-p", "no:cacheprovider", "--disable-warnings", *where]
    command += ["-k", "glyphnet and not compile"] if quick else []
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        process.wait(timeout=max(1.0, clock.left() - _GOODBYE))
    except subprocess.TimeoutExpired:
        print("\ntime is up: what follows counts the tests that have run", flush=True)
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=_GOODBYE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def with_gpu_tests() -> list[str]:
    """The files that have tests for a GPU; the others may import what a bare machine has not got."""
    return [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]


if __name__ == "__main__":
    main()
