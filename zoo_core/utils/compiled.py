"""Models in which ``torch.compile`` has wrapped layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

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
