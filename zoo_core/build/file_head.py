"""The head that a file was trained with, as far as names and shapes tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from zoo_core.surgery.head.mlp import TokenNorm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.contract.anatomy import Head

    Tensors = Mapping[str, Any]

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_BESIDE = re.compile(r"((?:.+\.)?(?:head|classifier|fc)\.)(?:body\.)?(.+)")
"""The head of a module that has backbone and head, and what is before and after that word."""
_MATRIX = 2
_LAYER = re.compile(r"\d{1,3}\.(?:weight|bias|running_mean|running_var|num_batches_tracked)")
_FREE = 1 << 22
"""Numbers that a head may have beyond those of the matrix in the file: its inputs may be another number."""
_BETWEEN = 2
"""Layers without tensors between two others that are more than a nonlinearity: a dropout, too."""


def tensors_at(state: Tensors, site: Head) -> dict[str, Any]:
    """What a file has at a head site, by the names inside it."""
    start = f"{site.path}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def head_beside(beside: Tensors, site: Head, own: Tensors) -> dict[str, str]:
    """Where the tensors of a head are that a user's module keeps beside the backbone, as ``zoo.split`` makes two.

    Args:
        beside: What the file has outside the backbone.
        site: Where the head goes.
        own: Tensors of the model, by name.

    Returns:
        Name at the model to the name in ``beside``; empty where there is no such head, or several.

    Example:
        >>> import torch
        >>> from zoo_core.plugin import Head
        >>> head_beside({"head.weight": torch.zeros(9, 512)}, Head("fc", in_features=512, num_classes=1000), {})
        {'fc.weight': 'head.weight'}
    """
    result = [(match[1], match[2], name) for name in beside if (match := _BESIDE.fullmatch(name))]
    if len({before for before, *_ in result}) != 1:
        return {}
    names = {inner if inner in own else f"{site.path}.{inner}": name for _, inner, name in result}
    matrices = [beside[name] for name in names.values() if getattr(beside[name], "dim", int)() >= _MATRIX]
    return names if matrices and matrices[0].shape[1] == site.in_features else {}


def head_in_file(inside: Tensors, site: Head) -> int | nn.Module | dict[str, Any] | None:
    """The head whose tensors these are: a number of classes, a module, or several of them by name.

    Args:
        inside: What the file has at the site.
        site: Where the head goes.

    Returns:
        None where names and shapes do not tell.

    Example:
        >>> import torch
        >>> from zoo_core.plugin import Head
        >>> site = Head("fc", in_features=512, num_classes=1000)
        >>> head_in_file({"weight": torch.zeros(9, 512), "bias": torch.zeros(9)}, site)
        9
        >>> head_in_file({"1.weight": torch.zeros(9, 512), "1.bias": torch.zeros(9)}, site)
        Sequential(
          (0): Identity()
          (1): Linear(in_features=512, out_features=9, bias=True)
        )
    """
    if {"weight"} <= inside.keys() <= {"weight", "bias"}:
        weight = inside["weight"]
        same_bias = "bias" in inside
        if not _is_of_its_size(weight, site):
            return None
        fits = weight.dim() >= _MATRIX and weight.shape[0] % site.per_class == 0
        return int(weight.shape[0]) // site.per_class if fits and same_bias else _layer(inside, site)
    if inside and all(map(_LAYER.fullmatch, inside)):
        return _sequential(inside, site)
    names = list(dict.fromkeys(name.partition(".")[0] for name in inside))
    each = {name: head_in_file(_under(inside, name), site) for name in names if not name.isdigit()}
    return (
        each
        if each and len(each) == len(names) and all(_takes(head, inside, name, site) for name, head in each.items())
        else None
    )


def _is_of_its_size(weight: Any, site: Head) -> bool:  # noqa: ANN401 - a tensor
    """Whether a head of as many classes would take no more memory than the file has for it."""
    return bool(weight.dim() and weight.numel() and weight.shape[0] * site.in_features <= _FREE + weight.numel())


def guesses(head: object) -> bool:
    """Whether a head from :func:`head_in_file` has a nonlinearity, which no file tells."""
    each = head.values() if isinstance(head, dict) else (head,)
    return any(isinstance(part, nn.ReLU) for one in each if isinstance(one, nn.Module) for part in one.modules())


def _takes(head: object, inside: Tensors, name: str, site: Head) -> bool:
    """Whether one of several heads is given the features: one of a chain would take what another gives."""
    if head is None or isinstance(head, dict):
        return False
    first = next(
        (tensor for each, tensor in inside.items() if each.startswith(f"{name}.") and tensor.dim() >= _MATRIX), None
    )
    return first is not None and int(first.shape[1]) == site.in_features


def _under(inside: Tensors, name: str) -> dict[str, Any]:
    start = f"{name}."
    return {each.removeprefix(start): tensor for each, tensor in inside.items() if each.startswith(start)}


def _sequential(inside: Tensors, site: Head) -> nn.Module | None:
    places = sorted({int(name.partition(".")[0]) for name in inside})
    layers = {place: _layer(_under(inside, str(place)), site) for place in places}
    if not all(layers.values()):
        return None
    result = nn.Sequential()
    for place in range(places[-1] + 1):
        layer = layers.get(place)
        before = layers.get(place - 1)
        if layer is None and before is not None:  # what stands behind a layer is its nonlinearity
            layer = nn.ReLU()
        result.append(layer or nn.Identity())
    return result


def _layer(inside: Tensors, site: Head) -> nn.Module | None:
    """The layer whose tensors these are."""
    weight = inside.get("weight")
    if weight is None or not weight.numel():
        return None
    has_bias = "bias" in inside
    if "running_mean" in inside:
        norms = {"linear": nn.BatchNorm1d, "conv1d": nn.BatchNorm1d, "conv": nn.BatchNorm2d, "conv3d": nn.BatchNorm3d}
        return (TokenNorm if site.tokens else norms[site.kind])(weight.shape[0])
    if weight.dim() == 1:
        return nn.LayerNorm(weight.shape[0], bias=has_bias)
    if weight.dim() == _MATRIX:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
    kind = _CONVOLUTIONS.get(weight.dim())
    if kind is None:
        return None
    size = tuple(weight.shape[2:])
    return kind(weight.shape[1], weight.shape[0], size, padding=tuple(side // 2 for side in size), bias=has_bias)  # type: ignore[arg-type]  # as many sizes as the kind has axes
