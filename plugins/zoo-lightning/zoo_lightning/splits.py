"""Which samples are trained on and which validate: splits that the data has, and those that are drawn."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoo_lightning.samples import Sample, Sides


SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called, in lower case, and which side of ours each is."""


def used_sides(sides: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """The splits whose samples are used, as ``train`` or ``val``: a test split validates where there is no other."""
    if "val" in sides.values():
        notes += [f"the split {name} was left out: it is for testing" for name, side in sides.items() if side == "test"]
        return {name: side for name, side in sides.items() if side != "test"}
    return {name: "val" if side == "test" else side for name, side in sides.items()}


def divided(sides: Sides, val: float, seed: int, *, by_class: bool) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples into those to train on and those to validate with, drawn where the data has no split."""
    if not any(side == "val" for _, side in sides):
        draw = _split_classes if by_class else _split_labels
        sides = draw([sample for sample, _ in sides], val, seed)
    train, held_out = (tuple(sample for sample, side in sides if (side == "val") == wants) for wants in (False, True))
    return train, held_out


def _split_classes(samples: Sequence[Sample], val: float, seed: int) -> Sides:
    """Split samples: a share of every class, reproducibly, and at least one image of a class that has two."""
    groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.labels].append(sample)
    held_out: set[int] = set()
    for labels, group in sorted(groups.items()):
        order = random.Random(f"{seed} {labels}").sample(group, len(group))  # noqa: S311 - a split is no secret
        held_out.update(id(each) for each in order[: round(val * len(group)) or int(len(group) > 1)])
    return [(sample, "val" if id(sample) in held_out else "train") for sample in samples]


def _split_labels(samples: Sequence[Sample], val: float, seed: int) -> Sides:
    """Split samples: a share of them, reproducibly, that leaves each label at least one image to train on."""
    left = Counter(label for sample in samples for label in set(sample.labels))
    count = max(1, round(val * len(samples)))
    held_out: set[int] = set()
    for sample in random.Random(f"{seed}").sample(samples, len(samples)):  # noqa: S311 - a split is no secret
        if len(held_out) < count and all(left[label] > 1 for label in sample.labels):
            held_out.add(id(sample))
            left.subtract(set(sample.labels))
    return [(sample, "val" if id(sample) in held_out else "train") for sample in samples]
