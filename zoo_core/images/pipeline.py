"""From a :class:`~zoo_core.Preprocessing` to a pipeline of ``torchvision.transforms.v2``; importing this needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchvision import tv_tensors
from torchvision.transforms import v2

from zoo_core.errors import NotSupported, UsageError, close_matches, did_you_mean
from zoo_core.images.image_steps import (
    CenterCropOrPad,
    FitTo,
    FramesAfterChannels,
    RequireTypedTargets,
    ToChannels,
    ToFloats,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from zoo_core.contract.card import Preprocessing

_RGB = 3
_SIDES = 2
_IGNORED = 255
"""What masks are padded with: the label that torchvision's reference leaves out of the loss."""


def compose(wanted: Preprocessing, task: str, *, train: bool) -> nn.Module:
    """The pipeline for what weights want.

    Args:
        wanted: What they want, with a number for each channel.
        task: What the model does, as on its card.
        train: Whether to augment in place of resizing and cropping.

    Raises:
        UsageError: torchvision has no such resampling filter, or there is no size to cut out.
        NotSupported: There are no standard augmentations for the task.
    """
    mean, std = wanted.mean, wanted.std
    turns = len(mean) == _RGB and wanted.channel_order == "BGR"
    colour = [min(max(value / wanted.value_range, 0), 1) for value in (reversed(mean) if turns else mean)]
    steps: list[Any] = [ToChannels(len(mean)), *(_augment(wanted, task) if train else _cut(wanted, colour))]
    steps.append(ToFloats(wanted.value_range, "BGR" if turns else "RGB"))
    if any(mean) or any(value != 1 for value in std):
        steps.append(v2.Normalize(mean=list(mean), std=list(std)))
    if task == "video":
        steps.append(FramesAfterChannels())
    found: nn.Module = v2.Compose([*steps, v2.ToPureTensor()])
    return found


def _cut(wanted: Preprocessing, colour: Sequence[float]) -> Iterator[Any]:
    """Bring an image to its size."""
    how = {"interpolation": _filter(wanted.interpolation), "antialias": wanted.antialias}
    if wanted.resize and wanted.fit == "squash":
        yield v2.Resize(list(wanted.resize), **how)
    elif wanted.resize:
        yield FitTo(wanted.resize, wanted.fit, **how)
    if wanted.crop:
        yield CenterCropOrPad(wanted.crop, colour) if wanted.fit == "border" else v2.CenterCrop(list(wanted.crop))


def _augment(wanted: Preprocessing, task: str) -> list[Any]:
    """What torchvision's references do to train a model for this task, before they normalize.

    See https://github.com/pytorch/vision/tree/main/references, the ``presets.py`` of each task.
    """
    if task not in _AUGMENTATIONS:
        raise NotSupported(
            f"there are no standard augmentations for {task}",
            expected=f"a model for {', '.join(_AUGMENTATIONS)}",
            cause="a flip makes a left hand a right one" if task == "keypoints" else None,
            hint="put your own before those of zoo.transforms(model): v2.Compose([yours, zoo.transforms(model)])",
        )
    return _AUGMENTATIONS[task](wanted)


def _for_classification(wanted: Preprocessing) -> list[Any]:
    if not wanted.crop:
        raise UsageError("the weights do not say which size to cut out of an image", hint="leave train=True out")
    how = {"interpolation": _filter(wanted.interpolation), "antialias": wanted.antialias}
    return [v2.RandomResizedCrop(list(wanted.crop), **how), v2.RandomHorizontalFlip()]


def _for_segmentation(wanted: Preprocessing) -> list[Any]:
    size = wanted.crop or wanted.resize
    if not size:
        raise UsageError("the weights do not say which size to cut out of an image", hint="leave train=True out")
    how = {"interpolation": _filter(wanted.interpolation), "antialias": wanted.antialias}
    fill = {tv_tensors.Mask: _IGNORED, "others": 0}
    crop = v2.RandomCrop(list(size) * (_SIDES // len(size)), pad_if_needed=True, fill=fill)
    return [
        RequireTypedTargets(),
        v2.RandomResize(round(min(size) * 0.5), round(min(size) * 2), **how),
        v2.RandomHorizontalFlip(),
        crop,
    ]


def _for_detection(_: Preprocessing) -> list[Any]:
    return [RequireTypedTargets(), v2.RandomHorizontalFlip()]


_AUGMENTATIONS = {
    "classification": _for_classification,
    "segmentation": _for_segmentation,
    "detection": _for_detection,
}


def _filter(name: str) -> Any:  # noqa: ANN401 - torchvision ships no types
    known = [mode.value for mode in v2.InterpolationMode]
    if name not in known:
        raise UsageError(
            f"torchvision has no resampling filter {name!r}",
            expected=f"one of {', '.join(known)}",
            cause="the card of these weights names it",
            hint=did_you_mean(close_matches(name, known), "correct the catalogue"),
        )
    return v2.InterpolationMode(name)
