"""Correctness and speed on a GPU in one run: the gpu tests, and then a table of ratios against the peers.

Run as ``python benchmarks/gpu.py`` on a machine with torch, torchvision and timm; it needs no network, and takes less
than ten minutes. ``--device cpu --quick`` shows on any machine that the script itself is right. What a bare machine
lacks is carried there as wheels; `docs/GPU.md` has the commands, and the figures that were seen.

- *placing*: seconds from a file in the cache to weights on the device, each in a fresh process that has imported its
  library and woken the device. The floor is the bytes of the weights over the bandwidth of a copy from pinned memory.
- *frozen step*: device time of a training step with a frozen backbone, beside ``requires_grad = False`` alone.
- *forward*: a swapped model beside the library's own, eager and compiled.
- *cached head*: an epoch of training a head from cached features, beside one through the frozen backbone.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

PLACED = [
    "torchvision/resnet50",
    "torchvision/vit_l_16",
    "torchvision/convnext_large",
    "timm/vit_giant_patch14_clip_224",
]
STEPPED = ["resnet18", "mobilenet_v3_large", "vit_b_16"]
FORWARD = ["resnet50", "vit_b_16"]
_GIB = 1 << 30


def main() -> None:
    """Print the tests' outcome and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5, help="pairs for each figure")
    parser.add_argument("--quick", action="store_true", help="small models and few rounds: to try the script")
    parser.add_argument("--no-tests", action="store_true", help="the figures alone")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, name, folder, device = options.child
        print(json.dumps(place_once(who, name, Path(folder), torch.device(device))))
        return
    device = torch.device(options.device)
    rounds = 2 if options.quick else options.rounds
    print(heading(device), flush=True)
    if not options.no_tests:
        tests(device)
    placing(device, ["torchvision/resnet18"] if options.quick else PLACED, rounds)
    frozen_steps(device, STEPPED[:1] if options.quick else STEPPED, rounds)
    forwards(device, ["resnet18"] if options.quick else FORWARD, rounds, compiled=not options.quick)
    cached_head(device, "resnet18", samples=64 if options.quick else 4096)


def heading(device: torch.device) -> str:
    """What ran this: device and versions."""
    from importlib.metadata import version

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    return f"{card}; Python {sys.version.split()[0]}, {libraries}; {time.strftime('%Y-%m-%d')}"


def tests(device: torch.device) -> None:
    """Run the gpu tests and print their last line."""
    environment = {**os.environ, **({} if device.type == "cuda" else {"ZOO_TEST_DEVICE": str(device)})}
    root = Path(__file__).parent.parent
    where = ["tests"] if device.type == "cuda" else ["tests/gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *where]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    print(f"\n## tests\n{done.stdout.strip().splitlines()[-1]}", flush=True)
    if done.returncode:
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), flush=True)


# --- from a file in the cache to weights on the device


def placing(device: torch.device, names: list[str], rounds: int) -> None:
    """Print a line a model and peer."""
    bandwidth = copy_bandwidth(device)
    print(f"\n## placing (copy from pinned memory: {bandwidth / _GIB:.1f} GiB/s)")
    print(f"{'model':36}{'peer':>13}{'zoo s':>8}{'peer s':>8}{'ratio':>7}{'(quartiles)':>15}{'floor s':>9}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder_name:
            folder = Path(folder_name)
            size = prepare(name, folder)
            run_child("zoo", name, folder, device)  # takes the file into the cache
            for peer in peers_of(name):
                pairs = [
                    (run_child("zoo", name, folder, device), run_child(peer, name, folder, device))
                    for _ in range(rounds)
                ]
                ours, theirs = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
                ratio = spread([theirs / ours for ours, theirs in pairs])
                print(f"{name:36}{peer:>13}{ours:8.3f}{theirs:8.3f}{ratio:>22}{size / bandwidth:9.3f}", flush=True)


def peers_of(name: str) -> list[str]:
    """The library's own way, as its documentation has it, and plain torch."""
    return [name.partition("/")[0], "torch"]


def prepare(name: str, folder: Path) -> int:
    """Save a checkpoint of random weights, and say how many bytes it has."""
    import zoo_core as zoo

    state = zoo.get(name, weights=None).state_dict()
    path = folder / "weights.pth"
    torch.save(state, path)
    (folder / "sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest(), encoding="utf-8")
    return sum(tensor.nbytes for tensor in state.values())


def run_child(who: str, name: str, folder: Path, device: torch.device) -> float:
    """Seconds that one fresh process took."""
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "TORCH_HOME": str(folder / "torch")}
    command = [sys.executable, __file__, "--child", who, name, str(folder), str(device)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(answer.stdout.splitlines()[-1]))


def place_once(who: str, name: str, folder: Path, device: torch.device) -> float:
    """Load a model and place it, in a process that did nothing else."""
    ways = {"zoo": with_zoo, "torchvision": with_torchvision, "timm": with_timm, "torch": with_torch}
    import_module(name.partition("/")[0])  # both have the library imported
    load = ways[who](name, folder, device)
    torch.zeros(1, device=device).add_(1)
    finish(device)
    started = time.perf_counter()
    model = load()
    finish(device)
    seconds = time.perf_counter() - started
    touched = sum(float(each.detach().flatten()[0]) for each in model.parameters())
    return seconds if touched == touched else float("nan")  # noqa: PLR0124 - only NaN differs from itself


def with_zoo(name: str, folder: Path, device: torch.device) -> Callable[[], nn.Module]:
    """The model's default weights are the file, which the cache already holds."""
    import zoo_core as zoo
    import zoo_core.build  # zoo imports its parts when they are first used; imports do not count, here as for peers

    own = zoo.Zoo()
    card = own.resolve(name)[0]
    path = folder / "weights.pth"
    entry = replace(
        card.find(),
        urls=(path.as_uri(),),
        sha256=(folder / "sha256").read_text(encoding="utf-8"),
        size=path.stat().st_size,
        convert=None,
        options={},
    )
    own.member(card.family).cards[card.name] = replace(card, weights=(entry,), default=entry.tag)

    def load() -> nn.Module:
        with zoo.use(own):
            return zoo.get(name, device=device)

    return load


def with_torchvision(name: str, folder: Path, device: torch.device) -> Callable[[], nn.Module]:
    """The entry's url names the file in torch.hub's cache, whose presence is all that torchvision checks."""
    from torchvision import models

    weights = models.get_model_weights(name.partition("/")[2]).DEFAULT
    held = Path(os.environ["TORCH_HOME"], "hub", "checkpoints", weights.url.rsplit("/", 1)[-1])
    held.parent.mkdir(parents=True, exist_ok=True)
    if not held.exists():
        held.symlink_to(folder / "weights.pth")
    return lambda: models.get_model(name.partition("/")[2], weights=weights).to(device)


def with_timm(name: str, folder: Path, device: torch.device) -> Callable[[], nn.Module]:
    """``create_model`` with a file of one's own in the place of the download."""
    import timm

    overlay = {"file": str(folder / "weights.pth")}
    return lambda: timm.create_model(name.partition("/")[2], pretrained=True, pretrained_cfg_overlay=overlay).to(device)


def with_torch(name: str, folder: Path, device: torch.device) -> Callable[[], nn.Module]:
    """What careful code does by hand: the fastest options that torch has."""
    library, _, own_name = name.partition("/")
    make: Callable[..., Any]
    if library == "timm":
        import timm

        make = timm.create_model
    else:
        from torchvision import models

        make = models.get_model

    def load() -> nn.Module:
        model: nn.Module = make(own_name)
        state = torch.load(folder / "weights.pth", map_location="cpu", mmap=True, weights_only=True)
        model.load_state_dict(state, assign=True)
        return model.to(device)

    return load


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second from pinned memory to the device, the best of five."""
    pinned = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(pinned, device=device)
    times = []
    for _ in range(5):
        finish(device)
        started = time.perf_counter()
        target.copy_(pinned, non_blocking=True)
        finish(device)
        times.append(time.perf_counter() - started)
    return pinned.numel() / min(times)


# --- training and inference on the device


def frozen_steps(device: torch.device, names: list[str], rounds: int) -> None:
    """Print what a step costs with ``zoo.freeze``, with requires_grad=False alone, and with nothing frozen."""
    import zoo_core as zoo

    print(
        f"\n## frozen step\n{'model':24}{'zoo of full':>13}{'naive of full':>15}{'zoo of naive':>14}{'(quartiles)':>15}"
    )
    x, y = torch.randn(32, 3, 224, 224, device=device), torch.arange(32, device=device) % 9
    x, y = (x, y) if device.type == "cuda" else (x[:2], y[:2])
    for name in names:
        full = zoo.get(name, weights=None, num_classes=9, device=device).train()
        naive = copy.deepcopy(full)
        head = zoo.anatomy(naive).heads[0].path
        for key, parameter in naive.named_parameters():
            parameter.requires_grad_(key.startswith(f"{head}."))
        ours = zoo.freeze(copy.deepcopy(full), "backbone").train()
        steps = {key: training_step(model, x, y) for key, model in (("full", full), ("naive", naive), ("zoo", ours))}
        found = [{key: device_seconds(step, device) for key, step in steps.items()} for _ in range(rounds * 3)]
        of_full = [statistics.median(each[key] / each["full"] for each in found) for key in ("zoo", "naive")]
        ratio = spread([each["zoo"] / each["naive"] for each in found])
        print(f"{name:24}{of_full[0]:13.3f}{of_full[1]:15.3f}{ratio:>29}", flush=True)


def training_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One step of SGD on what trains."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    return step


def forwards(device: torch.device, names: list[str], rounds: int, *, compiled: bool) -> None:
    """Print our forward over the library's own."""
    from torchvision import models

    import zoo_core as zoo

    print(f"\n## forward\n{'model':24}{'mode':>10}{'zoo of torchvision':>20}{'(quartiles)':>15}")
    x = torch.randn(32 if device.type == "cuda" else 2, 3, 224, 224, device=device)
    for name in names:
        ours = zoo.get(name, num_classes=9, weights=None, device=device).eval()
        theirs = models.get_model(name, weights=None, num_classes=9).to(device).eval()
        for mode in ("eager", "compiled") if compiled else ("eager",):
            pair = [torch.compile(each) if mode == "compiled" else each for each in (ours, theirs)]
            for model in pair * 3:
                device_seconds(inference(model, x), device)
            found = [[device_seconds(inference(model, x), device) for model in pair] for _ in range(rounds * 5)]
            print(f"{name:24}{mode:>10}{spread([a / b for a, b in found]):>35}", flush=True)


def inference(model: Callable[[torch.Tensor], object], x: torch.Tensor) -> Callable[[], None]:
    """A forward pass without gradients."""

    def step() -> None:
        with torch.no_grad():
            model(x)

    return step


def cached_head(device: torch.device, name: str, samples: int) -> None:
    """Print what an epoch costs from cached features kept on the device, and through the frozen backbone."""
    import zoo_core as zoo

    data = torch.utils.data.TensorDataset(torch.randn(samples, 3, 64, 64), torch.arange(samples) % 9)
    model = zoo.get(name, weights=None, num_classes=9, device=device, freeze="backbone")
    backbone, head = zoo.split(model)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-2)

    def epoch(pictures: torch.Tensor, targets: torch.Tensor, through: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def run() -> None:
            for x, y in zip(pictures.split(64), targets.split(64), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(through(x.to(device)), y.to(device)).backward()
                optimizer.step()

        run()
        return device_seconds(run, device)

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cached = zoo.cached_features(backbone, data, folder=folder)
        first = time.perf_counter() - started
        features, targets = (torch.as_tensor(each).to(device) for each in (cached.features, cached.targets))
        fast, slow = epoch(features, targets, head), epoch(*data.tensors, model)
    print(f"\n## cached head ({name}, {samples} pictures of 64 pixels)")
    print(f"first pass {first:.3f} s; an epoch from features {fast:.4f} s, through the backbone {slow:.3f} s")


# --- time


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_seconds(step: Callable[[], None], device: torch.device) -> float:
    """Time of one call: by events on the device itself where there are any."""
    if device.type != "cuda":
        started = time.perf_counter()
        step()
        return time.perf_counter() - started
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    step()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000


def spread(ratios: list[float]) -> str:
    """The median, and the quartiles behind it."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios * 3)
    return f"{middle:.3f}  ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
