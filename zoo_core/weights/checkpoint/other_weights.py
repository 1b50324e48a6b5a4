"""Other weights in the folder that a checkpoint is read from: what a trainer wrote beside those that are taken."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo_core.errors import Unreadable, ZooWarning
from zoo_core.text import first_few
from zoo_core.utils.paths import is_folder
from zoo_core.weights.checkpoint.candidates import Candidate, candidates, is_training
from zoo_core.weights.checkpoint.names import fits, under
from zoo_core.weights.checkpoint.read import (
    INDEX,
    METADATA,
    WEIGHTS,
    open_checkpoint,
    open_outline,
    shards_by_tensor,
    shards_in,
)
from zoo_core.weights.checkpoint.unsupported import unsupported_kind
from zoo_core.weights.formats.outline import is_tensor, outline_of

_PICKLED = ".pkl"
"""How accelerate ends the name of what a script has registered for checkpointing, such as averages of the weights."""


def warn_of_others(given: Path, taken: Path, *, stacklevel: int) -> None:
    """Warn of files beside the one that is read from a folder with weights of the same names and other numbers.

    Accelerate writes one for each model that it prepared, and scripts put averaged weights there. Which of them is
    meant, only the user knows. Files are compared by names first, which reads no numbers.

    Args:
        given: What the user named: nothing is said of a file.
        taken: The file in it that is read, the index of shards, or a folder of shards.
        stacklevel: Of the warning, counted from here.

    Raises:
        Unreadable: What is taken cannot be read.

    Warns:
        ZooWarning: There are such; they are named.
    """
    if not is_folder(given):
        return
    folder = taken if is_folder(taken) else taken.parent
    indexes = {part.name: taken.name for part in shards_in(taken)} | _index_of_shards(folder)
    files = {
        each: indexes.get(each.name, each.name)
        for each in sorted(folder.iterdir())
        if each.name.endswith((*WEIGHTS, _PICKLED, METADATA)) and each.is_file() and not is_training(each.name)
    }
    files = {each: name for each, name in files.items() if name != taken.name}
    mine = _largest(open_outline(taken).candidates) if files else {}
    others = [*dict.fromkeys(name for each, name in files.items() if _is_another(each, taken, mine))]
    if others:
        text = (
            f"{folder} holds other weights of the same names beside {taken.name}, which was taken: "
            f"{first_few(others)}. weights= takes the path of the file that is meant"
        )
        warnings.warn(text, ZooWarning, stacklevel=stacklevel + 1)


def _index_of_shards(folder: Path) -> dict[str, str]:
    """The index of each shard in a folder with other weights, by their names."""
    result: dict[str, str] = {}
    for index in folder.glob(f"*{INDEX}"):
        with suppress(Unreadable):  # it is of something else
            result |= dict.fromkeys(shards_by_tensor(index).values(), index.name)
    return result


def _largest(found: Iterable[Candidate]) -> Mapping[str, Any]:
    """The largest state dict in a file beside others; empty for a file that has none or that only torch reads."""
    return max((each.tensors for each in found), key=len, default={})


def _is_another(file: Path, taken: Path, mine: Mapping[str, Any]) -> bool:
    """Whether a file beside those that are read has names of them, as most of either, and other numbers."""
    if file.name != METADATA and not _of_one_name(_largest(candidates(outline_of(file))), mine):
        return False
    try:
        theirs, ours = (_largest(open_checkpoint(each).candidates) for each in (file, taken))
    except Unreadable:  # nothing can be had from it
        return False
    return any(_differ(one, other) for one, other in _of_one_name(theirs, ours))


def _of_one_name(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Pairs of tensors of one name in other weights, after a prefix in either, where most of the fewer are in pairs."""
    for prefixed, plain in ((theirs, ours), (ours, theirs)):
        best = next(iter(fits(prefixed, plain)), None)
        if best and 2 * best.count > min(len(theirs), len(ours)):
            return [(each, plain[name]) for name, each in under(prefixed, best.prefix).items() if name in plain]
    return []


def _differ(one: Any, other: Any) -> bool:
    """Whether two tensors of one name in files beside each other are of one shape, and differ by more than rounding."""
    if (
        not (is_tensor(one) and is_tensor(other))
        or unsupported_kind(one)
        or unsupported_kind(other)
        or one.shape != other.shape
    ):
        return False
    dtype = min(one.dtype, other.dtype, key=lambda each: each.itemsize)
    return not one.to(dtype).equal(other.to(dtype))
