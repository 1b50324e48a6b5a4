"""Attributes of a model, read and written by dotted path, through modules and through records such as configs."""

from __future__ import annotations

from copy import copy
from functools import reduce
from itertools import takewhile
from types import FunctionType
from typing import Any

from torch import nn


def get_attribute(model: nn.Module, path: str) -> Any:
    """The attribute at a dotted path such as ``"layer1.0.groups"`` or ``"config.num_labels"``."""
    return reduce(getattr, path.split("."), model)


def set_attribute(model: nn.Module, path: str, value: object) -> None:
    """Set the attribute at a dotted path; its owner may be a module, or another object such as a configuration.

    Other models may have been built from the same configuration: the model is given its own copy of it first, wherever
    its modules hold it.
    """
    *owners, name = path.split(".")
    owner: Any = model
    for step in owners:
        held = getattr(owner, step)
        if not isinstance(held, nn.Module) and step in getattr(owner, "__dict__", ()):
            own = copy(held)
            setattr(owner, step, own)
            for module in model.modules():
                for each in [each for each, value in vars(module).items() if value is held]:
                    setattr(module, each, own)
            held = own
        owner = held
    setattr(owner, name, value)


def is_of_module(model: nn.Module, path: str) -> bool:
    """Whether a module holds the attribute at a dotted path, and not a record such as a configuration."""
    owner = path.rpartition(".")[0]
    return isinstance(get_attribute(model, owner) if owner else model, nn.Module)


def own_methods(module: nn.Module) -> dict[str, Any]:
    """Functions on a module itself in the place of methods of its class, by name.

    Somebody has put them there, or its library binds them to each module. Beside ``forward`` it may be what that calls.
    Those that zoo puts on the modules of frozen parts are left out.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.forward = abs
        >>> own_methods(layer)
        {'forward': <built-in function abs>}
    """
    kinds = [vars(kind) for kind in takewhile(lambda kind: kind is not nn.Module, type(module).__mro__)]
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and (name == "forward" or any(isinstance(kind.get(name), FunctionType) for kind in kinds))
        and not str(getattr(value, "__module__", "")).startswith("zoo_core.")
    }
