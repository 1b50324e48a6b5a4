"""One training step with a frozen backbone, as a part of a full step; and an epoch on cached features.

Run as ``uv run python benchmarks/frozen.py``. Four ways take turns in one process: every parameter trained; the naive
way, ``requires_grad_(False)`` on all but the head; the floor, the backbone under ``torch.no_grad`` with its norms in
eval mode; and ``zoo.freeze``. A figure is the median of CPU seconds over those of the full step beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import TYPE_CHECKING

import torch
from torch import nn

import zoo_core as zoo
from benchmarks.harness import quartiles, rounds_in_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Step = "Callable[[Tensor, Tensor], None]"


def full(name: str) -> Callable[[Tensor, Tensor], None]:
    """Everything is trained."""
    return whole_step(zoo.get(name, weights=None, num_classes=9).train())


def naive(name: str) -> Callable[[Tensor, Tensor], None]:
    """No gradients but for the head; the norms go on in train mode."""
    model = zoo.get(name, weights=None, num_classes=9).train()
    head = {id(parameter) for parameter in zoo.split(model)[1].parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in head)
    return whole_step(model)


def floor(name: str) -> Callable[[Tensor, Tensor], None]:
    """The backbone apart, in eval mode and without gradients: what no whole model can do with less."""
    backbone, head = zoo.split(zoo.get(name, weights=None, num_classes=9))
    backbone.eval()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            features = backbone(x)
        descend(optimizer, head(features), y)

    return step


def frozen(name: str) -> Callable[[Tensor, Tensor], None]:
    """``zoo.freeze``, and the model trained as it is."""
    return whole_step(zoo.get(name, weights=None, num_classes=9, freeze="backbone").train())


def whole_step(model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """A step of what of a model can be trained."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.01)
    return lambda x, y: descend(optimizer, model(x), y)


def descend(optimizer: torch.optim.Optimizer, scores: Tensor, y: Tensor) -> None:
    """Loss, gradients, and a step down."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(scores, y).backward()
    optimizer.step()


WAYS = {"full": full, "naive": naive, "floor": floor, "zoo": frozen}


def seconds(step: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> float:
    """CPU seconds of one step."""
    started = time.process_time()
    step(x, y)
    return time.process_time() - started


def parts_of_full(name: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Each way's step as a part of the full step of the same round."""
    x, y = torch.randn(batch, 3, 224, 224), torch.randint(0, 9, (batch,))
    steps = {way: make(name) for way, make in WAYS.items()}
    for step in steps.values():
        step(x, y)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in rounds_in_time(rounds):
        taken = {way: seconds(step, x, y) for way, step in steps.items()}
        for way, spent in taken.items():
            found[way].append(spent / taken["full"])
    return found


def cached(name: str, count: int) -> tuple[float, float]:
    """CPU seconds of the first epoch on cached features, the pass through the backbone included, and of a later one."""
    images = torch.utils.data.TensorDataset(torch.randn(count, 3, 224, 224), torch.randint(0, 9, (count,)))
    backbone, head = zoo.split(zoo.get(name, weights=None, num_classes=9, freeze="backbone"))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    with tempfile.TemporaryDirectory() as folder:
        spent = []
        for _ in range(3):
            started = time.process_time()
            if not spent:
                features = zoo.cached_features(backbone, images, folder=folder, batch_size=16)
            for x, y in torch.utils.data.DataLoader(features, batch_size=64, shuffle=True):
                descend(optimizer, head(x), y)
            spent.append(time.process_time() - started)
    return spent[0], spent[2]


def measure(models: list[str], batch: int, rounds: int, count: int) -> list[dict[str, object]]:
    """A record a model and way."""
    records: list[dict[str, object]] = []
    for name in models:
        for way, parts in parts_of_full(name, batch, rounds).items():
            low, middle, high = quartiles(parts)
            records.append({"model": name, "way": way, "of full": middle, "low": low, "high": high})
        first, later = cached(name, count)
        records.append({"model": name, "way": "cached epoch, of the first", "of full": later / first})
    return records


def main() -> None:
    """Print a line a model and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v3_large"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=512, help="samples of the cached epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for record in measure(options.models, options.batch, options.rounds, options.count):
        spread = f" (quartiles {record['low']:.3f} to {record['high']:.3f})" if "low" in record else ""
        print(f"{record['model']:20} {record['way']:28} {record['of full']:.4f}{spread}")


if __name__ == "__main__":
    main()
