"""Seconds from a file in the cache to weights on the device, in fresh processes, beside three libraries and torch.

Each side has a process of its own that has imported its library and woken the device. All are made ready at once and
then take turns, one at a time; each loads once, as a program does, and another set of processes is made for the next
turn. The time is the host's, between two synchronisations: loading is work of the host as much as of the device, and
events on the device would see the copies only. The floor is the bytes of the weights over the bandwidth of a copy from
pinned memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu_peers import PEERS, prepare
from benchmarks.gpu_time import Clock, attempt, device_seconds, finish, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACED = {
    "torchvision/resnet50": ("torchvision", "timm", "transformers", "torch"),
    "torchvision/vit_l_16": ("torchvision", "timm", "transformers", "torch"),
    "torchvision/convnext_large": ("torchvision", "timm", "transformers", "torch"),
    "timm/vit_giant_patch14_clip_224": ("timm", "torch"),
}
"""What zoo places, and beside whom: each library's own model of that kind, and plain torch with the same model."""
QUICK = {"torchvision/resnet18": ("torchvision", "timm", "torch")}
_GIB = 1 << 30
_PATIENCE = {"cuda": 120}
"""Seconds that one turn may take, by the kind of device; where the script is only tried it may be busy otherwise."""
_SCRIPT = Path(__file__).with_name("gpu.py")


def table(device: torch.device, clock: Clock, rounds: int, *, quick: bool) -> None:
    """Print a line a model and peer."""
    bandwidth = copy_bandwidth(device)
    print(f"\n## placing (copy from pinned memory: {bandwidth / _GIB:.1f} GiB/s)")
    print(
        f"{'model':34}{'peer':>13}{'turns':>6}{'zoo s':>8}{'peer s':>8}{'peer/zoo':>9}{'(quartiles)':>16}{'floor s':>9}"
    )
    models = QUICK if quick else PLACED
    for number, (name, peers) in enumerate(models.items()):
        if clock.left() < 0:
            print(f"{name}: no time left", flush=True)
            continue
        with attempt(name), tempfile.TemporaryDirectory() as folder:
            rows(name, peers, Path(folder), device, clock.share(1 / (len(models) - number)), rounds, bandwidth)


def rows(
    name: str,
    peers: tuple[str, ...],
    folder: Path,
    device: torch.device,
    clock: Clock,
    rounds: int,
    bandwidth: float,
) -> None:
    """Print the lines of one model."""
    sides = ["zoo"]
    size = prepare("zoo", name, folder)
    for peer in peers:
        if peer != "torch" and find_spec(peer) is None:
            print(f"{name:34}{peer:>13} is missing", flush=True)
            continue
        with attempt(f"{name} for {peer}"):
            prepare(peer, name, folder)
            sides.append(peer)
    turn(["zoo"], name, folder, device)  # takes the file into the cache
    found: list[dict[str, float]] = []
    while len(found) < rounds and (not found or clock.left() > clock.spent() / len(found)):
        found.append(turn(sides if len(found) % 2 == 0 else sides[::-1], name, folder, device))
    for peer in sides[1:]:
        pairs = [(each["zoo"], each[peer]) for each in found if {"zoo", peer} <= each.keys()]
        if not pairs:
            continue
        ours, theirs = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratio = spread([b / a for a, b in pairs])
        print(
            f"{name:34}{peer:>13}{len(pairs):6}{ours:8.3f}{theirs:8.3f}{ratio:>25}{size / bandwidth:9.3f}", flush=True
        )


def turn(sides: list[str], name: str, folder: Path, device: torch.device) -> dict[str, float]:
    """Seconds of each side: processes are made for all, and load one after another."""
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "TORCH_HOME": str(folder / "torch")}
    environment["HF_HUB_OFFLINE"] = "1"
    children = {
        side: subprocess.Popen(
            [sys.executable, str(_SCRIPT), "--child", side, name, str(folder), str(device)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for side in sides
    }
    found: dict[str, float] = {}
    watch = threading.Timer(_PATIENCE.get(device.type, 600), lambda: [child.kill() for child in children.values()])
    watch.start()
    try:
        ready = [side for side in sides if _says(children[side], "ready", f"{name} by {side}")]
        for side in ready:
            with attempt(f"{name} by {side}"):
                answer, error = children[side].communicate("go\n")
                if children[side].returncode:
                    raise RuntimeError(error.strip() or f"the process ended with {children[side].returncode}")
                found[side] = json.loads(answer.splitlines()[-1])
    finally:
        watch.cancel()
        for child in children.values():
            child.kill()
            child.wait()
    return found


def _says(child: subprocess.Popen[str], word: str, what: str) -> bool:
    """Whether a process gets as far as saying a word; what it says instead is printed."""
    assert child.stdout is not None
    for line in _lines(child):
        if line.strip() == word:
            return True
    with attempt(what):
        raise RuntimeError(child.communicate()[1].strip() or f"the process ended with {child.returncode}")
    return False


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    while child.stdout is not None and (line := child.stdout.readline()):
        yield line


def serve(side: str, name: str, folder: str, device: str) -> None:
    """What a process does: get ready, wait for its turn, load once, and say how many seconds that took."""
    place = torch.device(device)
    load = PEERS[side](name, Path(folder), place)
    torch.zeros(1, device=place).add_(1)
    finish(place)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    model = load()
    finish(place)
    seconds = time.perf_counter() - started
    if not all(bool(each.detach().flatten()[0].isfinite()) for each in model.parameters()):
        msg = "the weights are not those of the file"
        raise RuntimeError(msg)
    print(json.dumps(seconds), flush=True)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second from pinned memory to the device, the best of five, by events on the device where it has them."""
    pinned = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(pinned, device=device)

    def copy() -> None:
        target.copy_(pinned, non_blocking=True)

    return pinned.numel() / min(device_seconds(copy, device) for _ in range(5))
