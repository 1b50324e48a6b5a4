"""Training and inference on the device, measured by its own events: medians of turns, with the quartiles.

- *frozen step*: a training step with a frozen backbone, beside ``requires_grad = False`` alone and beside training all.
- *forward*: a swapped model beside the library's own, eager and compiled; 1.00 is the promise, and the last column says
  whether the figure keeps it within two per cent.
- *cached head*: an epoch of training a head from features that the device keeps, beside one through the backbone.
"""

from __future__ import annotations

import copy
import gc
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.gpu_time import Clock, attempt, busy_share, device_seconds, finish, quartiles, spread

if TYPE_CHECKING:
    from collections.abc import Callable

STEPPED = (
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_large",
    "torchvision/vit_b_16",
    "timm/convnext_tiny",
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/se_resnet50",
)
FORWARD = (
    "torchvision/resnet50",
    "torchvision/vit_b_16",
    "timm/vit_base_patch16_224",
    "timm/convnext_tiny",
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/se_resnet50",
)
COMPILED = ("torchvision/resnet50", "timm/vit_base_patch16_224")
QUICK = ("torchvision/resnet18",)
_SAME = 0.02
_CLASSES = 9


def tables(device: torch.device, clock: Clock, rounds: int, *, quick: bool) -> None:
    """Print the three tables."""
    with attempt("cached head"):
        cached_head(device, "torchvision/resnet18", samples=64 if quick else 8192)
    frozen_steps(device, clock.share(0.4), QUICK if quick else STEPPED, rounds * 3)
    forwards(device, clock, QUICK if quick else FORWARD, rounds * 5, compiled=() if quick else COMPILED)


def installed(names: tuple[str, ...]) -> list[str]:
    """Those whose library is there; the others are named."""
    import zoo_core as zoo

    known = set(zoo.list())
    for name in names:
        if name not in known:
            print(f"{name}: its library is missing", flush=True)
    return [name for name in names if name in known]


def frozen_steps(device: torch.device, clock: Clock, names: tuple[str, ...], rounds: int) -> None:
    """Print what a step costs with ``zoo.freeze``, with requires_grad=False alone, and with nothing frozen."""
    print("\n## frozen step")
    print(f"{'model':38}{'zoo/full':>10}{'naive/full':>12}{'zoo/naive':>11}{'(quartiles)':>16}")
    for name in installed(names):
        if clock.left() < 0:
            print(f"{name}: no time left", flush=True)
            continue
        with attempt(name):
            found = step_times(device, name, rounds)
            of_full = [statistics.median(each[key] / each["full"] for each in found) for key in ("zoo", "naive")]
            ratio = spread([each["zoo"] / each["naive"] for each in found])
            print(f"{name:38}{of_full[0]:10.3f}{of_full[1]:12.3f}{ratio:>27}", flush=True)
        gc.collect()


def step_times(device: torch.device, name: str, rounds: int) -> list[dict[str, float]]:
    """Seconds of a step of each of the three, turn by turn."""
    import zoo_core as zoo

    batch = 32 if device.type == "cuda" else 2
    x, y = torch.randn(batch, 3, 224, 224, device=device), torch.arange(batch, device=device) % _CLASSES
    full = zoo.get(name, weights=None, num_classes=_CLASSES, device=device).train()
    naive = copy.deepcopy(full)
    heads = tuple(f"{site.path}." for site in zoo.anatomy(naive).heads)
    for key, parameter in naive.named_parameters():
        parameter.requires_grad_(key.startswith(heads))
    ours = zoo.freeze(copy.deepcopy(full), "backbone").train()
    steps = {key: training_step(model, x, y) for key, model in (("full", full), ("naive", naive), ("zoo", ours))}
    return [{key: device_seconds(step, device) for key, step in steps.items()} for _ in range(rounds)]


def training_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One step of SGD on what trains."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(2):
        step()
    return step


def forwards(
    device: torch.device, clock: Clock, names: tuple[str, ...], rounds: int, *, compiled: tuple[str, ...]
) -> None:
    """Print our forward over the library's own."""
    print(f"\n## forward\n{'model':38}{'mode':>10}{'zoo/library':>13}{'(quartiles)':>16}  within 2 %")
    chosen = [(name, "eager") for name in installed(names)] + [(name, "compiled") for name in compiled]
    for name, mode in chosen:
        if clock.left() < 0:
            print(f"{name:38}{mode:>10} no time left", flush=True)
            continue
        with attempt(f"{name}, {mode}"):
            ratios = forward_ratios(device, name, rounds, compiled=mode == "compiled")
            verdict = "yes" if abs(quartiles(ratios)[1] - 1) <= _SAME else "NO"
            print(f"{name:38}{mode:>10}{spread(ratios):>29}  {verdict}", flush=True)
        gc.collect()


def forward_ratios(device: torch.device, name: str, rounds: int, *, compiled: bool) -> list[float]:
    """Our time over the library's, turn by turn; who goes first alternates."""
    import zoo_core as zoo

    x = torch.randn(32 if device.type == "cuda" else 2, 3, 224, 224, device=device)
    ours: Any = zoo.get(name, num_classes=_CLASSES, weights=None, device=device).eval()
    theirs: Any = of_the_library(name).to(device).eval()
    if compiled:
        ours, theirs = torch.compile(ours), torch.compile(theirs)
    pair = (ours, theirs)
    for model in pair * 3:
        inference(model, x)()
    finish(device)
    found = []
    for number in range(rounds):
        order = pair if number % 2 else pair[::-1]
        times = {id(model): device_seconds(inference(model, x), device) for model in order}
        found.append(times[id(ours)] / times[id(theirs)])
    return found


def of_the_library(name: str) -> nn.Module:
    """The model as its library itself makes it, with a head for nine classes."""
    family, _, own_name = name.partition("/")
    if family == "timm":
        import timm

        return timm.create_model(own_name, num_classes=_CLASSES)
    if family == "efficientnet_pytorch":
        from efficientnet_pytorch import EfficientNet

        return EfficientNet.from_name(own_name, num_classes=_CLASSES)
    if family == "pretrainedmodels":
        import pretrainedmodels

        model: nn.Module = pretrainedmodels.__dict__[own_name](pretrained=None)
        model.last_linear = nn.Linear(model.last_linear.in_features, _CLASSES)
        return model
    from torchvision import models

    return models.get_model(own_name, weights=None, num_classes=_CLASSES)


def inference(model: Callable[[torch.Tensor], object], x: torch.Tensor) -> Callable[[], None]:
    """A forward pass without gradients."""

    def step() -> None:
        with torch.no_grad():
            model(x)

    return step


def cached_head(device: torch.device, name: str, samples: int) -> None:
    """Print what an epoch costs from features that the device keeps, and through the frozen backbone."""
    import zoo_core as zoo

    data = torch.utils.data.TensorDataset(torch.randn(samples, 3, 64, 64), torch.arange(samples) % _CLASSES)
    model = zoo.get(name, weights=None, num_classes=_CLASSES, device=device, freeze="backbone")
    backbone, head = zoo.split(model)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-2)

    def epoch(batches: Any, through: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for x, y in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(through(x.to(device)), y.to(device)).backward()
                optimizer.step()

        run()
        return run

    print(f"\n## cached head ({name}, {samples} images of 64 pixels)")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cached = zoo.cached_features(backbone, data, folder=folder, batch_size=256)
        print(f"first pass, through the backbone and to the disk: {time.perf_counter() - started:.3f} s")
        slow = device_seconds(epoch([*zip(*(each.split(256) for each in data.tensors), strict=True)], model), device)
        print(f"{'an epoch':32}{'batch':>7}{'seconds':>9}{'times as fast':>15}{'device busy':>13}  kept on the device")
        print(f"{'through the frozen backbone':32}{256:7}{slow:9.4f}{1.0:15.1f}", flush=True)
        for size in (256, 4096):
            batches = cached.batches(size, device=device)
            run = epoch(batches, head)
            fast = statistics.median(device_seconds(run, device) for _ in range(5))
            busy = f"{100 * busy_share(run, device):.0f} %"
            print(
                f"{'from cached features':32}{size:7}{fast:9.4f}{slow / fast:15.1f}{busy:>13}  {batches.kept}",
                flush=True,
            )
