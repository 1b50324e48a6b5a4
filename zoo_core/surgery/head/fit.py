"""Fitting a new head to its site: the layer, device, dtype and mode that it needs there, or why it does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from zoo_core.contract.anatomy import Head
from zoo_core.errors import HeadMismatch, UsageError
from zoo_core.surgery.adapters import plain_layer
from zoo_core.surgery.head.mlp import MLPHead
from zoo_core.surgery.head.multi_head import Heads, check_names
from zoo_core.surgery.hold import hold_frozen_parts
from zoo_core.utils.arguments import check_count
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.memory_format import follows, lay_last

OneHead = int | nn.Module | MLPHead | Callable[[int], nn.Module] | None
HeadLike = OneHead | Mapping[str, OneHead]
"""What a head can be said to be: a number of classes, a description, a module, a function of the number of features
that makes one, None for no head, or several of them by name."""

_SPATIAL = {"linear": 0, "conv1d": 1, "conv": 2, "conv3d": 3}
_CONVOLUTIONS: dict[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    "conv1d": nn.Conv1d,
    "conv": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


def made_for(site: Head, head: Any) -> Any:
    """``head``, with each function in it called with the number of features, so that what it makes fits the site."""
    if isinstance(head, Mapping):
        return {name: made_for(site, each) for name, each in head.items()}
    if callable(head) and not isinstance(head, nn.Module | MLPHead):
        with on_the_cpu():
            return head(site.in_features)
    return head


def fitted(model: nn.Module, site: Head, head: object) -> nn.Module:
    """The module that ``head`` means, fitted to its site: with the device, dtype, format and mode of what is there.

    Raises:
        UsageError: ``head`` is none of the things that a head can be.
    """
    if head is None:
        return nn.Identity().train(model.get_submodule(site.path).training)
    if isinstance(head, MLPHead):
        scores = head.num_classes * site.per_class
        with on_the_cpu():
            new = replace(head, num_classes=scores).build(site)
        return _settle(new, model, site)
    if isinstance(head, nn.Module):
        hold_frozen_parts(head)
        return _settle(head, model, site)
    if isinstance(head, Mapping):
        check_names(head)
        heads = Heads({name: fitted(model, site, each) for name, each in head.items()})
        return heads.train(model.get_submodule(site.path).training)
    if isinstance(head, str) or not isinstance(head, int):
        raise UsageError(
            f"a head cannot be {head!r}",
            expected="the number of classes, a zoo.mlp_head(...), a torch module, None, or a dict of these by name",
            got=f"a {type(head).__name__}",
        )
    if head == 0 and not isinstance(head, bool):
        raise UsageError("a head cannot have 0 classes", hint="None takes the head off: the model gives embeddings")
    return _layer_like(model, site, check_count("num_classes", head))


def _layer_like(model: nn.Module, site: Head, num_classes: int) -> nn.Module:
    """A new head that fits its site: a layer like the one there, with another number of classes."""
    with on_the_cpu():
        new = _unsettled(model, site, num_classes)
    if site.prior is not None and new.bias is not None:
        nn.init.constant_(new.bias, math.log(site.prior / (1 - site.prior)))
    return _settle(new, model, site)


def _unsettled(model: nn.Module, site: Head, num_classes: int) -> nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A new layer that fits a head site, like the one there, which still lacks the device and dtype of that one."""
    old = plain_layer(model.get_submodule(site.path))
    layers = [layer for layer in old.modules() if isinstance(layer, (nn.Linear, *_CONVOLUTIONS.values()))]
    has_bias = layers[-1].bias is not None if layers else True
    scores = num_classes * site.per_class
    if site.kind == "linear":
        return nn.Linear(site.in_features, scores, bias=has_bias)
    kind = _CONVOLUTIONS[site.kind]
    if isinstance(old, kind):
        shape: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        return kind(site.in_features, scores, bias=has_bias, **shape)
    return kind(site.in_features, scores, kernel_size=1)


def _settle(new: nn.Module, model: nn.Module, site: Head) -> nn.Module:
    """Give a head fitted to a site the device, dtype, memory format and mode of what it replaces."""
    old = model.get_submodule(site.path)
    reference = next(old.parameters(), None)
    if reference is None:
        reference = next(model.parameters(), None)
    if reference is not None:
        new = new.to(device=reference.device, dtype=reference.dtype)
    if follows(old, model):
        lay_last(new)
    is_frozen = next(new.parameters(), None) is not None and not any(each.requires_grad for each in new.parameters())
    return new if is_frozen else new.train(old.training)  # a frozen head keeps the modes that its owner gave it


def mismatch(head: nn.Module, site: Head, shape: Sequence[int] | None, got: str) -> HeadMismatch:
    """The error for a head that does not fit its site, with what the site gives and the head takes."""
    sides: tuple[str, ...] = ("T", "H", "W")[3 - _SPATIAL[site.kind] :]
    given = ", ".join(str(size) for size in ("N", *(shape or [site.in_features]), *(() if shape else sides)))
    takes = _input_of(head)
    return HeadMismatch(
        f"the new head does not fit the site {site.path!r}",
        expected=f"a module that takes [{given}], which is what the site gives",
        got=f"one whose first layer takes {takes}; {got}" if takes else got,
        hint=f"give its first layer {site.in_features} inputs, or use zoo.mlp_head(...), which asks the site",
        path=site.path,
        in_features=site.in_features,
    )


def _input_of(head: nn.Module) -> str | None:
    """What the first layer of a head takes, for the error where it does not fit the site."""
    for module in head.modules():
        for name in ("in_features", "in_channels", "num_features"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                return f"[N, {size}]" if name == "in_features" else f"[N, {size}, ...]"
    return None
