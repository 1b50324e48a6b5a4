"""The names of the tensors in a file, and how they map onto those of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")

TRANSPARENT = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Parts of names that ``torch.compile``, FSDP and activation checkpointing add, anywhere in a name."""
PARALLEL = "module"
"""What data-parallel training adds, around a model or around a part of it."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""What averages of parameters leave out."""


@dataclass(frozen=True)
class Fit:
    """How names of the tensors in a file map onto those of a model: what prefix they have, and how many do.

    Attributes:
        prefix: What is before the names of the model in those of the file; ``""`` where nothing is.
        count: How many names of the file are names of the model then.
    """

    prefix: str
    count: int


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict under names without the parts that wrappers add; unchanged where two names would be one.

    Example:
        >>> without_wrappers({"_orig_mod.layer1._checkpoint_wrapped_module.0.weight": 1})
        {'layer1.0.weight': 1}
    """
    return _without(state, TRANSPARENT)


def without_parallel(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict without ``module`` anywhere in its names, which data-parallel training adds.

    Example:
        >>> without_parallel({"features.module.0.weight": 1})
        {'features.0.weight': 1}
    """
    return _without(state, {PARALLEL})


def _without(state: Mapping[str, Value], parts: Collection[str]) -> dict[str, Value]:
    """A state dict under names without some of their parts; unchanged where two names would be one."""
    if not any(part in name for part in parts for name in state):
        return dict(state)
    short = {".".join(part for part in name.split(".") if part not in parts): value for name, value in state.items()}
    return short if len(short) == len(state) else dict(state)


def fits(names: Iterable[str], own: Collection[str]) -> list[Fit]:
    """Every prefix under which names of tensors in a file are names of a model, the best first.

    Example:
        >>> fits(["model.fc.weight", "model.fc.bias", "loss.weight"], {"fc.weight", "fc.bias"})
        [Fit(prefix='model.', count=2)]
    """
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in own:
                counts[name[:start]] += 1
            at = name.find(".", start)
            start = at + 1 if at >= 0 else -1
    return [Fit(prefix, count) for prefix, count in sorted(counts.items(), key=lambda item: (-item[1], len(item[0])))]


def named_children(
    state: Mapping[str, Value], own: Collection[str], children: Sequence[str]
) -> tuple[str, dict[str, Value]] | None:
    """Map names of tensors that number a model's children, as ``nn.Sequential`` does, onto the names of that model.

    Args:
        state: As ``nn.Sequential(*model.children())`` has it, under any prefix.
        own: Names of the tensors in the model.
        children: Names of its children, in order.

    Returns:
        The prefix, and all tensors, those under it by the names of the model; None where no name fits so.

    Example:
        >>> named_children({"body.0.weight": 1, "head.weight": 2}, {"conv.weight", "fc.weight"}, ["conv", "pool", "fc"])
        ('body.', {'body.conv.weight': 1, 'head.weight': 2})
    """
    numbers = {name: str(number) for number, name in enumerate(children)}
    split = (name.partition(".") for name in own)
    best = next(iter(fits(state, {f"{numbers.get(first, first)}.{rest}" for first, _, rest in split})), None)
    if best is None:
        return None
    result = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix(best.prefix).partition(".")
        is_child = name.startswith(best.prefix) and number.isdecimal() and int(number) < len(children)
        result[f"{best.prefix}{children[int(number)]}.{rest}" if is_child else name] = value
    return best.prefix, result


def common_prefix(names: Collection[str]) -> str:
    """The parts that the names of all tensors begin with, as long as one remains after them.

    Example:
        >>> common_prefix(["model.net.fc.weight", "model.net.conv.weight"])
        'model.net.'
    """
    if not names:
        return ""
    first, last = min(names).split("."), max(names).split(".")
    same = 0
    while same < min(len(first), len(last)) - 1 and first[same] == last[same]:
        same += 1
    return "".join(f"{part}." for part in first[:same])


def under(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """The tensors whose names begin with a prefix, under their names without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
