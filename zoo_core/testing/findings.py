"""What a check finds: that a model breaks a promise, that nothing can be said about it, or that values were missing."""

from __future__ import annotations

import unittest
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from zoo_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_missed: ContextVar[list[str] | None] = ContextVar("missed", default=None)


class NonConformance(PluginError, AssertionError):
    """The finding that a model breaks a promise of its family; the message names the model, the part and the cause."""


class NotChecked(unittest.SkipTest):
    """The finding of a check that can say nothing about a model; the message says why. pytest shows it as skipped."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - it is the subject of the sentence
    """Raise the finding ``message`` unless the condition holds."""
    if not condition:
        raise NonConformance(message)


@contextmanager
def values_missed() -> Iterator[list[str]]:
    """Inside the block, gather what checks note that they would compare by values, had the model under test any.

    Example:
        >>> with values_missed() as missed:
        ...     only_shapes("scores")
        >>> missed
        ['scores']
    """
    missed: list[str] = []
    token = _missed.set(missed)
    try:
        yield missed
    finally:
        _missed.reset(token)


def only_shapes(what: str) -> None:
    """Note what a check could not compare, since its model under test has shapes alone."""
    missed = _missed.get()
    if missed is not None:
        missed.append(what)


def difference(ours: Tensor, theirs: Tensor) -> str:
    """How two outputs of models differ, in a few characters, for the message of a finding."""
    if ours.shape != theirs.shape:
        return f"shape, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return f"{(ours - theirs).abs().max().item():.2g}"
