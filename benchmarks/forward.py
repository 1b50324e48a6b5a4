"""Forward time of a model from zoo, swapped and frozen, against the library's own, eager and compiled.

Run as ``uv run python -m benchmarks.forward``. The two take turns, so that a change in the machine's speed meets both;
the figure is the median of the ratios pair by pair, with the first and third quartile.
"""

from __future__ import annotations

import argparse
import time

import torch
import torchvision
from torch import nn

import zoo_core as zoo
from benchmarks.harness import quartiles, rounds_in_time


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """Wall time of one forward pass."""
    started = time.perf_counter()
    with torch.no_grad():
        model(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ratios(ours: nn.Module, theirs: nn.Module, x: torch.Tensor, pairs: int) -> list[float]:
    """Our time over theirs, pair by pair; which of them goes first alternates."""
    for model in (ours, theirs):
        for _ in range(3):
            seconds(model, x)
    found = []
    for pair in rounds_in_time(pairs):
        first, second = (ours, theirs) if pair % 2 else (theirs, ours)
        times = {first: seconds(first, x), second: seconds(second, x)}
        found.append(times[ours] / times[theirs])
    return found


def main() -> None:
    """Print one line a model and mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18", "vit_b_16"])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="measure the compiled models as well")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {options.device}, batch {options.batch}")
    x = torch.randn(options.batch, 3, 224, 224, device=options.device)
    for name in options.models:
        ours = zoo.get(name, num_classes=9, weights=None, freeze="backbone", device=options.device).eval()
        theirs = torchvision.models.get_model(name, weights=None, num_classes=9).to(options.device).eval()
        trained = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
        for parameter_name, parameter in theirs.named_parameters():
            # frozen alike, because torch's attention takes another path when nothing in it requires a gradient
            parameter.requires_grad_(parameter_name in trained)
        for how in ["eager", "compiled"] if options.compile else ["eager"]:
            if how == "compiled":
                ours, theirs = (torch.compile(model, fullgraph=True) for model in (ours, theirs))
            low, middle, high = quartiles(ratios(ours, theirs, x, options.pairs))
            print(f"{name:12} {how:9} ours / theirs {middle:.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
