"""What a check finds: that a model breaks a promise, that nothing can be said about it, or that values were missing."""

from __future__ import annotations

import linecache
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

from zoo_core.errors import PluginError

_missed: ContextVar[list[str] | None] = ContextVar("missed", default=None)
_OF_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
"""Folders of code that is not the library's."""


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
    """Inside the block, gather what checks note with :func:`only_shapes`, which they would find by values alone.

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


def line_of_caller() -> str:
    """The line of code that a finding is about, which calls a function of torch, with its file; empty if unknown."""
    frame = sys._getframe(1)  # noqa: SLF001 - the way to a caller's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OF_OTHERS):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f" in {Path(file).name}:{frame.f_lineno} ({line})" if line else ""
