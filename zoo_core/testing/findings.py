"""What a check raises: that a model breaks a promise, or that nothing can be said about it."""

from __future__ import annotations

import unittest

from zoo_core.errors import PluginError


class NonConformance(PluginError, AssertionError):
    """The finding that a model breaks a promise of its family; the message names the model, the part and the cause."""


class NotChecked(unittest.SkipTest):
    """The finding of a check that can say nothing about a model; the message says why. pytest shows it as skipped."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - it is the subject of the sentence
    """Raise the finding ``message`` unless the condition holds."""
    if not condition:
        raise NonConformance(message)
