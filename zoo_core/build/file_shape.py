"""What a model has to be so that the tensors of a file fit it: image size, input channels, keypoints."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from zoo_core.errors import NotSupported
from zoo_core.surgery.example import channels_told
from zoo_core.surgery.head.swap import swap_keypoints
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.stem.adapt import adapt_stem, stem_layers
from zoo_core.surgery.stem.in_channels import inputs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    Tensors = Mapping[str, Any]

_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8)
"""How many tokens of a position table are not of the image: class, distillation and register tokens."""
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


def meet_stem(model: nn.Module, state: Tensors) -> int | None:
    """Give the first layers of ``model`` as many channels as those in the file have.

    Returns:
        How many that are; None where they are as they were.
    """
    channels = channels_in_file(model, state)
    if channels is not None:
        try:
            adapt_stem(model, channels)
        except NotSupported:  # its responses cannot be kept, and need not be: the file has filters of its own
            adapt_stem(model, channels, policy="random")
    return channels


def channels_in_file(model: nn.Module, state: Tensors) -> int | None:
    """How many channels the images of a file have, where it is another number than the model's.

    Args:
        model: It has a stem.
        state: Name to tensor in the file.
    """
    try:
        layers = stem_layers(model)
    except NotSupported:
        return None
    for path, layer in layers.items():
        weight, own = state.get(f"{path}.weight"), layer.weight
        if weight is None or tuple(weight.shape) == tuple(own.shape) or weight.dim() != own.dim():  # type: ignore[union-attr]  # a parameter
            continue
        if weight.shape[0] == own.shape[0] and weight.shape[2:] == own.shape[2:]:  # type: ignore[index,union-attr]
            channels, rest = divmod(int(weight.shape[1]) * channels_told(model), inputs_of(layer))
            return channels if channels and not rest else None
    return None


def image_sizes_in_file(size: int, own: Mapping[str, tuple[int, ...]], state: Tensors) -> Iterator[int]:
    """Sizes of images that would explain why position tables in a file are longer or shorter than the model's.

    Args:
        size: Of the images that the model is for now.
        own: Name to shape of its tensors.
        state: Name to tensor in the file.

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
    for extra in _EXTRA_TOKENS:  # a table of tokens
        sides = [isqrt(count - extra) for count in (mine, theirs) if count > extra]
        if len(sides) > 1 and sides[0] ** 2 == mine - extra and sides[1] ** 2 == theirs - extra:
            yield from _scaled(size, *sides)
    yield from _scaled(size, mine, theirs)  # rows or columns of a map
    yield from _scaled(size, mine + 1, theirs + 1)  # relative positions, 2 n - 1 of them


def _scaled(size: int, mine: int, theirs: int) -> Iterator[int]:
    if mine and size % mine == 0 and size // mine * theirs <= _LARGEST:
        yield size // mine * theirs
