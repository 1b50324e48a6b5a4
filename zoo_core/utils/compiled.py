"""Layers that ``torch.compile`` has wrapped: their names, what is inside, and the model without them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn

WRAPPED = "_orig_mod"
"""What ``torch.compile`` calls a layer inside the one that it wraps around it."""


def without_compiled(model: nn.Module) -> nn.Module:
    """``model`` as it was before ``torch.compile`` wrapped some of its layers: another one that has the same tensors.

    Args:
        model: Left as it is; given back itself where nothing in it is wrapped.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(2, 2))))
        >>> list(without_compiled(net).state_dict()), list(net.state_dict())[:1]
        (['0.0.weight', '0.0.bias'], ['0._orig_mod.0.weight'])
    """
    children = model._modules  # noqa: SLF001 - torch has no public way to replace children of a copy
    if WRAPPED in children:
        return without_compiled(cast("nn.Module", children[WRAPPED]))
    plain = {name: None if each is None else without_compiled(each) for name, each in children.items()}
    if all(plain[name] is each for name, each in children.items()):
        return model
    result: nn.Module = object.__new__(type(model))
    result.__dict__.update(model.__dict__, _modules=plain)
    return result


def as_before_compile(name: str) -> str:
    """A tensor's name or a path without what ``torch.compile`` adds to it where it wraps a layer.

    Example:
        >>> as_before_compile("layer1._orig_mod.0.conv1.weight"), as_before_compile("fc._orig_mod")
        ('layer1.0.conv1.weight', 'fc')
    """
    return ".".join(each for each in name.split(".") if each != WRAPPED) if WRAPPED in name else name


def inside_compiled(model: nn.Module, paths: Iterable[str]) -> nn.Module | None:
    """The layer in what ``torch.compile`` gave, if paths in it are to be replaced or kept; None for any other.

    A twin with other layers than were compiled runs them as they are.
    """
    inside = model._modules.get(WRAPPED)  # noqa: SLF001 - where nn.Module keeps its children
    return inside if any(path and path.partition(".")[0] != WRAPPED for path in paths) else None


def run_wrapped(compiled: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a twin of what ``torch.compile`` gave, which runs other layers than were compiled."""
    return compiled._modules[WRAPPED](*args, **kwargs)  # type: ignore[misc] # noqa: SLF001 - as above
