"""Numbers of a model that repeat what its layers say: read and written by dotted path, through modules or not."""

from __future__ import annotations

from copy import copy
from functools import reduce
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


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
            _replace_attributes(model, held, own)
            held = own
        owner = held
    setattr(owner, name, value)


def is_of_module(model: nn.Module, path: str) -> bool:
    """Whether a module holds the attribute at a dotted path, and not a record such as a configuration."""
    owner = path.rpartition(".")[0]
    return isinstance(get_attribute(model, owner) if owner else model, nn.Module)


def is_per_channel(value: object, counts: Collection[int]) -> bool:
    """Whether a value is a tensor of fractions with one number for each channel, such as ``[1, 3, 1, 1]``.

    Args:
        value: What an attribute is.
        counts: Of channels there may be.
    """
    is_fraction = isinstance(value, Tensor) and value.is_floating_point()
    return is_fraction and value.numel() in counts and value.numel() in value.shape  # type: ignore[attr-defined]


def _replace_attributes(model: nn.Module, old: object, new: object) -> None:
    """Write a new object to each attribute of a module in the model that is the old one."""
    for module in model.modules():
        for name in [name for name, value in vars(module).items() if value is old]:
            setattr(module, name, new)


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
