"""What a model has to be so that the tensors of a file fit it: image size, input channels, keypoints and head."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import nn

from zoo_core.contract.anatomy import Head
from zoo_core.errors import NotSupported, ZooWarning
from zoo_core.surgery.head.fit import fitted
from zoo_core.surgery.head.mlp import TokenNorm
from zoo_core.surgery.head.swap import swap_keypoints
from zoo_core.surgery.inputs import channels_told, example_input
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.stem.adapt import adapt_stem, stem_layers
from zoo_core.surgery.stem.filters import input_channels_of
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.eval_mode import evaluating
from zoo_core.weights.checkpoint.names import under

Tensors = Mapping[str, Any]

_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8)
"""How many tokens of a position table are not of the image: class, distillation and register tokens."""
_EXTRA_POSITIONS = (0, 3)
"""How many relative positions are not of the image: to, from and within the class token."""
_LARGEST = 8192
"""Pixels of the side of an image that a position table may be for."""


def meet_keypoints(model: nn.Module, state: Tensors) -> None:
    """Give ``model`` as many keypoints as the file has."""
    path = anatomy_of(model).keypoints
    weight = state.get(f"{path}.weight") if path else None
    if path is None or weight is None or weight.dim() < 2:  # noqa: PLR2004 - inputs, keypoints, kernel
        return
    own = model.get_submodule(path).weight
    is_kernel = own.dim() == weight.dim() and own.shape[0] == weight.shape[0] and own.shape[2:] == weight.shape[2:]  # type: ignore[operator,index]  # a parameter
    if is_kernel and weight.numel() and getattr(model.get_submodule(path), "out_channels", None) != weight.shape[1]:
        swap_keypoints(model, int(weight.shape[1]))


def meet_classifier(model: nn.Module, state: Tensors) -> bool:
    """Give ``model`` the whole classifier of the file where that is another before its last layer, or has more of them.

    So it is after ``model.classifier = nn.Sequential(...)``. The layers at its beginning that are as the model's stay.

    Returns:
        Whether the file does not tell all that is in it.
    """
    site = anatomy_of(model).main
    path = site.path.rpartition(".")[0] if site else ""
    place = model.get_submodule(path) if path else None
    if (
        site is None
        or not isinstance(place, nn.Sequential)
        or _has_place(place, inside := under(state, f"{path}."), site)
    ):
        return False
    kept = _kept(place, inside)
    following = [layer for layer in list(place)[kept:] if next(layer.parameters(), None) is not None]
    rest = {name: tensor for name, tensor in inside.items() if _number(name) >= kept} if kept else inside
    first = next((tensor for tensor in rest.values() if tensor.dim() == _MATRIX), None)
    if not following or not isinstance(following[0], nn.Linear) or first is None:
        return False
    width = following[0].in_features
    result = head_in_file(rest, replace(site, path=path, in_features=width, per_class=1))
    if result is None or isinstance(result, dict) or first.shape[1] != width:
        return False
    with on_the_cpu():
        new = result if isinstance(result, nn.Module) else nn.Linear(width, result)
    if isinstance(new, nn.Sequential):
        new = nn.Sequential(*list(place)[:kept], *list(new)[kept:])
    model.set_submodule(path, new.to(following[0].weight.dtype).train(place.training))
    return guesses(result)


def _has_place(place: nn.Sequential, inside: Tensors, site: Head) -> bool:
    """Whether all that a file has of a classifier is at the head, or as the model has it."""
    own = place.state_dict()
    head = f"{site.path.rpartition('.')[2]}."
    hidden = {name for name in {*inside, *own} if not name.startswith(head)}
    return not inside or all(
        name in inside and name in own and inside[name].shape == own[name].shape for name in hidden
    )


def _kept(place: nn.Sequential, inside: Tensors) -> int:
    """How many layers at the beginning of a classifier have the same names and shapes in a file."""
    if {"weight", "bias"} & {*inside}:  # one layer in the place of all of them
        return 0
    for at, layer in enumerate(place):
        own, theirs = layer.state_dict(), under(inside, f"{at}.")
        if own.keys() != theirs.keys() or any(own[name].shape != theirs[name].shape for name in own):
            return at
    return len(place)


def _number(name: str) -> int:
    """The number that the name of a layer in a file begins with; 0 where it begins with none."""
    at = name.partition(".")[0]
    return int(at) if at.isdecimal() else 0


def meet_other_heads(model: nn.Module, state: Tensors) -> None:
    """Give the heads beside the main one as many classes as the file has there, which may be another number."""
    for site in anatomy_of(model).heads:
        result = head_in_file(tensors_at(state, site), site) if site.role != "main" else None
        if isinstance(result, int) and result != site.num_classes:
            model.set_submodule(site.path, fitted(model, site, result))


def meet_stem(model: nn.Module, state: Tensors) -> int | None:
    """Give the first layers of ``model`` as many channels as those in the file have.

    Returns:
        How many that are; None where they are as they were.
    """
    channels = _channels_in_file(model, state)
    if channels is not None:
        try:
            adapt_stem(model, channels)
        except NotSupported:  # its responses cannot be kept, and need not be: the file has filters of its own
            adapt_stem(model, channels, policy="random")
    return channels


def _channels_in_file(model: nn.Module, state: Tensors) -> int | None:
    """How many channels the images of a file have, where it is another number than the model's."""
    try:
        layers = stem_layers(model)
    except NotSupported:
        return None
    for path, layer in layers.items():
        weight, own = state.get(f"{path}.weight"), layer.weight
        if weight is None or tuple(weight.shape) == tuple(own.shape) or weight.dim() != own.dim():  # type: ignore[union-attr]  # a parameter
            continue
        if weight.shape[0] == own.shape[0] and weight.shape[2:] == own.shape[2:]:  # type: ignore[index,union-attr]
            channels, rest = divmod(int(weight.shape[1]) * channels_told(model), input_channels_of(layer))
            return channels if channels and not rest else None
    return None


def image_sizes_in_file(size: int, own: Mapping[str, tuple[int, ...]], state: Tensors) -> Iterator[int]:
    """Sizes of images that would explain why position tables in a file are longer or shorter than the model's.

    Example:
        >>> import torch
        >>> [*image_sizes_in_file(224, {"pos_embed": (1, 197, 192)}, {"pos_embed": torch.zeros(1, 577, 192)})]
        [384]
    """
    seen: set[int] = set()
    for name, shape in own.items():
        tensor = state.get(name)
        if tensor is None or tuple(tensor.shape) == shape or tensor.dim() != len(shape) or not tensor.numel():
            continue
        for mine, theirs in zip(shape, tensor.shape, strict=True):
            for result in _sizes(size, mine, int(theirs)) if mine != theirs else ():
                if result not in seen:
                    seen.add(result)
                    yield result


def _sizes(size: int, mine: int, theirs: int) -> Iterator[int]:
    """Image sizes for which a side of a position table would be as long as in the file."""
    for extra in _EXTRA_TOKENS:  # a table of tokens
        sides = [isqrt(count - extra) for count in (mine, theirs) if count > extra]
        if len(sides) > 1 and sides[0] ** 2 == mine - extra and sides[1] ** 2 == theirs - extra:
            yield from _scaled(size, *sides)
    yield from _scaled(size, mine, theirs)  # rows or columns of a map
    yield from _scaled(size, mine + 1, theirs + 1)  # relative positions, 2 n - 1 of them
    for extra in _EXTRA_POSITIONS:  # the same on both axes
        sides = [isqrt(max(count - extra, 0)) for count in (mine, theirs)]
        if [side**2 + extra for side in sides] == [mine, theirs] and all(side % 2 for side in sides):
            yield from _scaled(size, sides[0] + 1, sides[1] + 1)


def _scaled(size: int, mine: int, theirs: int) -> Iterator[int]:
    if mine and size % mine == 0 and size // mine * theirs <= _LARGEST:
        yield size // mine * theirs


_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_MATRIX = 2
_LAYER = re.compile(r"\d{1,3}\.(?:weight|bias|running_mean|running_var|num_batches_tracked)")
_FREE = 1 << 22
"""Numbers that a head may have beyond those of the matrix in the file: its inputs may be another number."""


def tensors_at(state: Tensors, site: Head) -> dict[str, Any]:
    """What a file has at a head site, by the names inside it."""
    return under(state, f"{site.path}.")


def children_by_number(model: nn.Module) -> dict[str, str]:
    """Numbers in the file of an ``nn.Sequential`` to the names of the children of ``model`` that they mean, no head."""
    heads = {site.path.partition(".")[0] for site in anatomy_of(model).heads}
    return {str(at): name for at, (name, _) in enumerate(model.named_children()) if name not in heads}


def warn_of_order(model: nn.Module, source: str) -> None:
    """Warn where the children of ``model`` in a row, as in an ``nn.Sequential``, give other features than it."""
    site = anatomy_of(model).main
    after = model.get_submodule(site.path.partition(".")[0]) if site else model
    given: list[torch.Tensor] = []
    with torch.no_grad(), evaluating(model), suppress(Exception):  # what fails so was not trained so
        x = example_input(model)
        hook = after.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            model(x)
        finally:
            hook.remove()
        expected = given[0]
        for name in children_by_number(model).values():
            x = model.get_submodule(name)(x)
            pooled = (x.flatten(1), x.flatten(2).mean(-1) if x.dim() > _MATRIX else x)
            if any(each.shape == expected.shape and torch.allclose(each, expected, atol=1e-5) for each in pooled):
                return
    text = (
        f"{source} numbers the layers of a module of your own, and they are loaded by their order: this "
        f"{type(model).__name__} does more between them, such as an activation or another order, so its outputs may "
        "differ. zoo.adopt(module, example=x) takes your own module"
    )
    warnings.warn(text, ZooWarning, stacklevel=2)


def head_in_file(inside: Tensors, site: Head) -> int | nn.Module | dict[str, Any] | None:
    """The head whose tensors these are: a number of classes, a module, or several of them by name.

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
    each = {name: head_in_file(under(inside, f"{name}."), site) for name in names if not name.isdigit()}
    are_heads = (
        each and len(each) == len(names) and all(_takes(head, inside, name, site) for name, head in each.items())
    )
    return each if are_heads and not _may_be_chain(inside, site) else None


def _is_of_its_size(weight: Any, site: Head) -> bool:
    """Whether a head of as many classes would take no more memory than the file has for it."""
    return bool(weight.dim() and weight.numel() and weight.shape[0] * site.in_features <= _FREE + weight.numel())


def guesses(head: object) -> bool:
    """Whether a head from :func:`head_in_file` may have more than was found: what has no weights is in no file.

    Several layers have nonlinearities between them; one alone in an ``nn.Sequential`` has something after it; and what
    is taken for a layer norm may be a group norm, or have another eps.
    """
    each = [one for one in (head.values() if isinstance(head, dict) else (head,)) if isinstance(one, nn.Module)]
    alone = any(isinstance(one, nn.Sequential) and len(one) == 1 for one in each)
    return alone or any(isinstance(part, nn.ReLU | nn.LayerNorm) for one in each for part in one.modules())


def _takes(head: object, inside: Tensors, name: str, site: Head) -> bool:
    """Whether one of several heads in a file is given the features: one of a chain takes what another gives."""
    if head is None or isinstance(head, dict):
        return False
    first = next(
        (tensor for each, tensor in inside.items() if each.startswith(f"{name}.") and tensor.dim() >= _MATRIX), None
    )
    return first is not None and int(first.shape[1]) == site.in_features


def _may_be_chain(inside: Tensors, site: Head) -> bool:
    """Whether one of several heads in a file gives what the site is given, and may be a layer before others."""
    return any(
        tensor.dim() >= _MATRIX and tuple(tensor.shape[:2]) == (site.in_features, site.in_features)
        for tensor in inside.values()
    )


def _sequential(inside: Tensors, site: Head) -> nn.Module | None:
    """The sequence of layers whose tensors a file has at the head, with a ReLU in the gap after a layer."""
    places = sorted({int(name.partition(".")[0]) for name in inside})
    layers = {place: _layer(under(inside, f"{place}."), site) for place in places}
    if not all(layers.values()):
        return None
    result = nn.Sequential()
    for place in range(places[-1] + 1):
        layer = layers.get(place)
        before = layers.get(place - 1)
        if layer is None and before is not None:  # what follows a layer is its nonlinearity
            layer = nn.ReLU()
        result.append(layer or nn.Identity())
    return result


def _layer(inside: Tensors, site: Head) -> nn.Module | None:
    """The layer that the tensors of a file have the shapes of."""
    weight = inside.get("weight")
    if weight is None or not weight.numel():
        return None
    has_bias = "bias" in inside
    if "running_mean" in inside:
        norms = {"linear": nn.BatchNorm1d, "conv1d": nn.BatchNorm1d, "conv": nn.BatchNorm2d, "conv3d": nn.BatchNorm3d}
        return (TokenNorm if site.tokens else norms[site.kind])(weight.shape[0])
    if weight.dim() == 1:  # without a bias it may be an RMSNorm, a PReLU or a LayerNorm, which scores do not forgive
        return nn.LayerNorm(weight.shape[0]) if has_bias else None
    if weight.dim() == _MATRIX:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
    kind = _CONVOLUTIONS.get(weight.dim())
    if kind is None:
        return None
    size = tuple(weight.shape[2:])
    return kind(weight.shape[1], weight.shape[0], size, padding=tuple(side // 2 for side in size), bias=has_bias)  # type: ignore[arg-type]  # as many sizes as the kind has axes
