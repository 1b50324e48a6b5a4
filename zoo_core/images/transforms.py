"""``zoo.transforms``: the pipeline of images that belongs to the weights in use."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo_core.errors import UsageError, ZooError
from zoo_core.images.preprocessing import numbers_of, require_known, resized
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


@strict_arguments
def transforms(
    model: nn.Module | str,
    *,
    train: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | Sequence[int] | None = None,
) -> nn.Module:
    """The pipeline that turns an image into what ``model`` takes, as its weights were trained and measured with.

    It is a ``torchvision.transforms.v2.Compose``, so that it can be printed, pickled, taken apart and put into another
    one. It takes a PIL image, a tensor ``[..., C, H, W]`` of uint8 or of floats from 0 to 1, or a sample that holds
    one next to labels, masks and boxes, and gives float32 ``[..., C, H, W]``. Grey images become RGB for a model that
    takes RGB. On PIL images the values are those of the library's own pipeline; a tensor is resampled by other code
    than a PIL image, and differs from it by a few of the 255 levels.

    A model whose stem :func:`zoo_core.adapt_stem` has adapted gets the numbers that belong to its new channels: for one
    channel the averages of the old means and deviations, and RGB images become grey; where filters are repeated or
    mapped, the numbers go with them. The channels are then taken in the order in which they come.

    By task: a detector scales and normalizes by itself, and gets floats from 0 to 1; segmentation keeps the whole
    image; a video is ``[..., T, C, H, W]`` and becomes ``[..., C, T, H, W]``; optical flow takes its two images one
    at a time.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt(..., weights=...)``; or ``family/name@tag``, which
            stands for the default weights without its tag, and for which nothing is fetched or built.
        train: Augment as torchvision's references do, in place of resize and crop. Classification:
            ``RandomResizedCrop`` (8 to 100 % of the area, 3:4 to 4:3) and a flip for one image in two. Detection: a
            flip. Segmentation: a scale of 0.5 to 2, a flip, and a crop, padded where it has to be, with 255 in masks.
            Boxes and masks are moved along when they are ``tv_tensors``.
        mean: One number a channel, in the order of the model's channels, in place of those of the weights.
        std: The same for the deviations.
        size: Height and width of the crop, or one number for both, instead of those of the weights: the resize keeps
            its ratio to it, as when a model is used at 384 pixels that was trained at 224.

    Returns:
        The pipeline.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: No weights say how the model's images are prepared; or a channel is new, and ``mean`` and
            ``std`` are not given; or ``train`` is for a task without standard augmentations.
        UsageError: ``mean`` or ``std`` is not one number a channel, or ``size`` is no size.
        ZooError: torchvision is not installed.

    Example:
        >>> import torch, zoo_core as zoo
        >>> pipeline = zoo.transforms("resnet18@IMAGENET1K_V1")
        >>> pipeline(torch.zeros(2, 3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([2, 3, 224, 224])
    """
    result = numbers_of(model)
    chosen = replace(
        resized(result, size),
        mean=_mean_or_std("mean", mean, result.preprocessing.mean),
        std=_mean_or_std("std", std, result.preprocessing.std),
    )
    try:
        from zoo_core.images.transform_steps import compose
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("torchvision"):
            raise
        raise ZooError("a pipeline of images needs torchvision", hint="pip install 'torchvision>=0.23'") from error
    return compose(chosen, result.task, train=train)


def _mean_or_std(name: str, own: Sequence[float] | None, of_weights: tuple[float, ...]) -> tuple[float, ...]:
    """The mean or std for ``zoo.transforms``, one number a channel, from the user or else from the weights."""
    if own is None:
        require_known(name, of_weights)
        return of_weights
    result = tuple(own) if not isinstance(own, str | bytes) and hasattr(own, "__iter__") else ()
    if len(result) != len(of_weights) or not all(
        _is_number(value) and (name == "mean" or value > 0) for value in result
    ):
        raise UsageError(
            f"{name} cannot be {own!r}",
            expected=f"{len(of_weights)} {'numbers' if name == 'mean' else 'numbers above 0'}, one for each channel",
        )
    return tuple(float(value) for value in result)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
