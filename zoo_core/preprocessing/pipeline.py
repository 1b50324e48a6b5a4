"""From a :class:`~zoo_core.Preprocessing` to a pipeline of ``torchvision.transforms.v2``; importing this needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchvision.transforms import v2

from zoo_core.errors import UsageError, close_matches, did_you_mean
from zoo_core.preprocessing.image_steps import CenterCropOrPad, FitTo, FramesAfterChannels, ToChannels, ToFloats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from zoo_core.contract.card import Preprocessing

_RGB = 3


def compose(
    wanted: Preprocessing, task: str, mean: Sequence[float], std: Sequence[float], *, reorder: bool, train: bool
) -> nn.Module:
    """The pipeline for what weights want.

    Args:
        wanted: What they want.
        task: What the model does, as on its card.
        mean: One number a channel, in units of ``wanted.value_range``.
        std: The same.
        reorder: Whether pictures come as RGB, to be turned round where the model takes BGR.
        train: Whether to augment in place of resizing and cropping.

    Raises:
        UsageError: torchvision has no such resampling filter.
    """
    turns = reorder and len(mean) == _RGB and wanted.channel_order == "BGR"
    colour = [min(max(value / wanted.value_range, 0), 1) for value in (reversed(mean) if turns else mean)]
    steps: list[Any] = [ToChannels(len(mean)), *(_augment(wanted) if train else _cut(wanted, colour))]
    steps.append(ToFloats(wanted.value_range, "BGR" if turns else "RGB"))
    if any(mean) or any(value != 1 for value in std):
        steps.append(v2.Normalize(mean=list(mean), std=list(std)))
    if task == "video":
        steps.append(FramesAfterChannels())
    found: nn.Module = v2.Compose([*steps, v2.ToPureTensor()])
    return found


def _cut(wanted: Preprocessing, colour: Sequence[float]) -> Iterator[Any]:
    """Bring a picture to its size."""
    how = {"interpolation": _filter(wanted.interpolation), "antialias": wanted.antialias}
    if wanted.resize and wanted.fit == "squash":
        yield v2.Resize(list(wanted.resize), **how)
    elif wanted.resize:
        yield FitTo(wanted.resize, wanted.fit, **how)
    if wanted.crop:
        yield CenterCropOrPad(wanted.crop, colour) if wanted.fit == "border" else v2.CenterCrop(list(wanted.crop))


def _augment(wanted: Preprocessing) -> Iterator[Any]:
    """What torchvision's reference does to train a classifier, before it normalises.

    See https://github.com/pytorch/vision/blob/main/references/classification/presets.py.
    """
    if not wanted.crop:
        raise UsageError("the weights do not say which size to cut out of a picture", hint="leave train=True out")
    how = {"interpolation": _filter(wanted.interpolation), "antialias": wanted.antialias}
    yield v2.RandomResizedCrop(list(wanted.crop), **how)
    yield v2.RandomHorizontalFlip()


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
