"""Attributes of a model, found, read and written by dotted path, through modules and records such as configs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import copy
from functools import reduce
from itertools import takewhile
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn


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

    A user replaced them, or the library binds them to each module: ``forward``, and methods that it calls.
    Those that zoo puts on the modules of frozen parts are left out, and what ``torch.jit.script`` compiled.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.forward = abs
        >>> own_methods(layer)
        {'forward': <built-in function abs>}
    """
    if isinstance(module, torch.jit.ScriptModule):
        return {}
    kinds = [vars(kind) for kind in takewhile(lambda kind: kind is not nn.Module, type(module).__mro__)]
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and (name == "forward" or any(isinstance(kind.get(name), FunctionType) for kind in kinds))
        and not str(getattr(value, "__module__", "")).startswith("zoo_core.")
    }


def repeated_numbers(model: nn.Module, path: str, number: int, names: Collection[str]) -> tuple[str, ...]:
    """Dotted paths of the attributes of a model, all integers of these names, that repeat what one of its layers says.

    They are looked for in the modules around the layer, and in the configurations that these hold.

    Args:
        model: The model.
        path: Of the layer.
        number: What it says itself, such as its number of classes.
        names: What such an integer is called.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 9))
        >>> net.num_classes = 9
        >>> repeated_numbers(net, "0", 9, {"num_classes"})
        ('num_classes',)
    """
    result: dict[tuple[int, str], str] = {}
    for place, owner in _attribute_owners(model, path):
        for name in sorted(names):
            value = getattr(owner, name, None)
            if type(value) is int and value == number:
                result.setdefault((id(owner), name), f"{place}.{name}".lstrip("."))
    return tuple(result.values())


def _attribute_owners(model: nn.Module, path: str) -> Iterator[tuple[str, object]]:
    """Modules around a layer, and configs in them, by dotted path: their attributes may repeat its numbers."""
    parts = path.split(".")
    for depth in range(len(parts)):
        place = ".".join(parts[:depth])
        module = model.get_submodule(place)
        yield place, module
        for name, value in vars(module).items():
            is_record = hasattr(value, "__dict__") and not isinstance(value, type | nn.Module | Tensor)
            is_frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
            if is_record and not is_frozen and not callable(value):
                yield f"{place}.{name}".lstrip("."), value
