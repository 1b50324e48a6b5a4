"""How often ``zoo inspect`` names the right model first, told by names and shapes alone.

Run as ``uv run python -m benchmarks.inspecting [FAMILY ...]``, all families by default, in about a minute for a hundred
models. Every model is built on the meta device with the options of its default weights. What its file would hold is
described twice: as the library publishes it, and as a training script writes it, all under ``model.`` and with 9
outputs in the last layer. No values are written. "alike" are models whose state dicts have the same names and shapes,
so that no file can tell them apart: such a model counts as right wherever one of them comes first. There are 1,424
different state dicts among the 1,548 models, so by names and shapes alone 92.0 % is the most that can be named first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zoo_core.build.construct import as_published
from zoo_core.errors import ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.weights.checkpoint.candidates import Candidate
from zoo_core.weights.checkpoint.describe import describe
from zoo_core.weights.checkpoint.read import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Shapes = dict[str, tuple[int, ...]]
CLASSES = 9


@dataclass
class Told:
    """What was told of the files of one kind.

    Attributes:
        first: How many were named first.
        alike: How many were named first, or after models with the same names and shapes alone.
        seconds: What each description took.
        wrong: The other models, with what was named in their place.
    """

    first: int = 0
    alike: int = 0
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def shapes_of(families: Iterable[str]) -> Iterator[tuple[str, Shapes, Shapes]]:
    """Of each model that can be built here: its name, its tensors, and those with another number of classes."""
    for card in (card for family in families for card in current_zoo().member(family).cards.values()):
        try:
            model = as_published(card)
        except ZooError as error:
            print(f"left out: {card.id}: {error.summary}")
            continue
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if hasattr(value, "shape")}
        paths = tuple(f"{site.path}." for site in anatomy_of(model).heads)
        yield card.id, shapes, with_classes(shapes, paths)


def with_classes(shapes: Shapes, paths: tuple[str, ...]) -> Shapes:
    """The same where what is below the paths of the heads has another number of outputs."""
    return {
        name: (CLASSES, *shape[1:]) if shape and name.startswith(paths) else shape for name, shape in shapes.items()
    }


def first_named(shapes: Shapes, prefix: str) -> tuple[str, float]:
    """What a file with such tensors is called, and the seconds that it took."""
    one = torch.zeros(())
    tensors = {f"{prefix}{name}": one.expand(shape) for name, shape in shapes.items()}
    checkpoint = Checkpoint(Path("last.ckpt"), tensors, (Candidate((), tensors),))
    started = time.perf_counter()
    (found,) = describe(checkpoint)
    return found.matches[0].name if found.matches else "", time.perf_counter() - started


def measure(models: list[tuple[str, Shapes, Shapes]]) -> dict[str, Told]:
    """What is told of the files of all models."""
    published = {name: shapes for name, shapes, _ in models}
    found = {"as published": Told(), "as trained": Told()}
    for name, shapes, trained in models:
        for told, held, prefix in zip(found.values(), (shapes, trained), ("", "model."), strict=True):
            answer, seconds = first_named(held, prefix)
            told.first += answer == name
            right = answer == name or published.get(answer) == shapes
            told.alike += right
            told.seconds.append(seconds)
            told.wrong += [] if right else [f"{name}: {answer or 'nothing'}"]
    return found


def report(found: dict[str, Told]) -> str:
    """A Markdown table, and the models that were taken for others."""
    lines = ["| file | models | named first | first, or alike | median s | slowest s |", "|---|---|---|---|---|---|"]
    for kind, told in found.items():
        count = len(told.seconds)
        shares = " | ".join(f"{each} ({each / count:.1%})" for each in (told.first, told.alike))
        lines.append(
            f"| {kind} | {count} | {shares} | {statistics.median(told.seconds):.2f} | {max(told.seconds):.2f} |"
        )
    return "\n".join([*lines, *(f"{kind}: {each}" for kind, told in found.items() for each in told.wrong)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=[*current_zoo().order])
    options = parser.parse_args()
    print(report(measure([*shapes_of(options.families)])))


if __name__ == "__main__":
    main()
