"""Numbers of a model that repeat what its layers say: read and written by dotted path, through modules or not."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def get_attribute(model: nn.Module, path: str) -> Any:  # noqa: ANN401 - a number, a switch or a list of numbers
    """The attribute at a dotted path such as ``"layer1.0.groups"`` or ``"config.num_labels"``."""
    return reduce(getattr, path.split("."), model)


def set_attribute(model: nn.Module, path: str, value: object) -> None:
    """Set the attribute at a dotted path; its owner may be a module, or another object such as a configuration."""
    *owners, name = path.split(".")
    setattr(reduce(getattr, owners, model), name, value)
