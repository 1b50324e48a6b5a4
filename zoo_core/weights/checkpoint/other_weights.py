"""Other weights in the folder that a checkpoint is read from: what a trainer wrote beside the file that is taken."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from zoo_core.errors import Unreadable, ZooWarning
from zoo_core.text import first_few
from zoo_core.utils.paths import is_folder
from zoo_core.weights.checkpoint.candidates import candidates, is_training
from zoo_core.weights.checkpoint.names import fits, under
from zoo_core.weights.checkpoint.read import WEIGHTS, open_checkpoint
from zoo_core.weights.checkpoint.unsupported import unsupported_kind
from zoo_core.weights.formats.outline import is_tensor, outline_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from zoo_core.weights.checkpoint.candidates import Candidate

_PICKLED = ".pkl"
"""How accelerate ends the name of what a script has registered for checkpointing, such as averages of the weights."""


def warn_of_others(given: Path, taken: Path, *, stacklevel: int) -> None:
    """Warn of files beside the one that is read from a folder with weights of the same names and other numbers.

    Accelerate writes one for each model that it prepared, and scripts put averaged weights there. Which of them is
    meant, only the user knows. Files are compared by names first, which reads no numbers.

    Args:
        given: What the user named: nothing is said of a file.
        taken: The file in it that is read.
        stacklevel: Of the warning, counted from here.

    Warns:
        ZooWarning: There are such; they are named.
    """
    if not is_folder(given) or not taken.is_file():
        return
    mine = _largest(candidates(outline_of(taken)))
    files = (each for each in sorted(taken.parent.iterdir()) if each.name.endswith((*WEIGHTS, _PICKLED)))
    others = [
        each.name for each in files if each != taken and not is_training(each.name) and _is_another(each, taken, mine)
    ]
    if others:
        text = (
            f"{taken.parent} holds other weights of the same names beside {taken.name}, which was taken: "
            f"{first_few(others)}. weights= takes the path of the file that is meant"
        )
        warnings.warn(text, ZooWarning, stacklevel=stacklevel + 1)


def _largest(found: Iterable[Candidate]) -> Mapping[str, Any]:
    """The largest state dict in a file beside others; empty for a file that has none or that only torch reads."""
    return max((each.tensors for each in found), key=len, default={})


def _is_another(file: Path, taken: Path, mine: Mapping[str, Any]) -> bool:
    """Whether a file beside the one that is read has most of its names, and other numbers."""
    if not file.is_file() or not _most(_largest(candidates(outline_of(file))), mine):
        return False
    try:
        ours, theirs = (_largest(open_checkpoint(each).candidates) for each in (taken, file))
    except Unreadable:  # nothing can be had from it
        return False
    prefix = _most(theirs, ours)
    state = under(theirs, prefix[0]) if prefix else {}
    return any(_differ(ours[name], state[name]) for name in state if name in ours)


def _most(names: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str] | None:
    """The prefix under which a file beside another has most of the names in that; None where there is none."""
    best = next(iter(fits(names, own)), None)
    return (best.prefix,) if best and 2 * best.count > len(own) else None


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
