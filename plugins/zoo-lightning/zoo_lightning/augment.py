"""The presets of augmentation, by task: an image, with its boxes or its mask, to what a model trains on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

import zoo_core as zoo
from zoo_core import errors
from zoo_lightning.mask_folders import IGNORED

AUGMENT = ("none", "light", "standard", "strong")
"""The presets of augmentation, from none to strong."""
_TURN, _SHIFT = 8, 0.1


def transform_for(model: nn.Module, augment: str, task: str = "classification") -> Callable[..., Any]:
    """The preprocessing of the model's weights, after the augmentations of a preset.

    Args:
        model: A model from ``zoo.get``.
        augment: ``"none"``; ``"light"``: shifts by up to a tenth and small turns, for images whose sides matter, such
            as digits, and boxes that are shifted and not turned; ``"standard"``: as torchvision's reference trains;
            ``"strong"``: more than that, RandAugment for classes, and zooms, crops and colors for boxes.
        task: ``"classification"``: of an image; ``"detection"`` and ``"segmentation"``: of an image and its target.

    Raises:
        UsageError: There is no such preset.
    """
    if augment not in AUGMENT:
        raise errors.UsageError(f"there is no augmentation {augment!r}", expected=", ".join(AUGMENT))
    presets: dict[str, Any] = {"detection": _for_boxes, "segmentation": _for_masks}
    result: Callable[..., Any] = presets.get(task, _for_classes)(model, augment)
    return result


def _for_classes(model: nn.Module, augment: str) -> Callable[[Any], Tensor]:
    """The augmentations of a preset for images with classes, and then the preprocessing."""
    if augment in ("none", "light"):
        plain = zoo.transforms(model)
        shifts = [_without_palette, v2.RandomAffine(_TURN, translate=(_SHIFT, _SHIFT)), plain]
        return v2.Compose(shifts) if augment == "light" else plain
    standard = zoo.transforms(model, train=True)
    return v2.Compose([_without_palette, v2.RandAugment(), standard]) if augment == "strong" else standard


def _without_palette(image: Any, *target: Any) -> Any:
    """Grey or RGB: augmentations turn the indices of a palette into others, and most do not take transparency."""
    if not isinstance(image, Tensor) and image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    return (image, *target) if target else image


def _for_boxes(model: nn.Module, augment: str) -> Any:
    """Augmentations for boxes; keypoints get colors alone: a flip would make a left hand a right one.

    A crop would part it from its body.
    """
    plain = zoo.transforms(model)
    colors = v2.ColorJitter(brightness=0.2, contrast=0.2)
    if augment == "none":
        return plain
    if zoo.anatomy(model).keypoints:
        return v2.Compose([_without_palette, colors, plain])
    steps = {
        "light": [v2.RandomAffine(0, translate=(_SHIFT, _SHIFT))],
        "standard": [v2.RandomHorizontalFlip()],
        "strong": [colors, v2.RandomZoomOut(side_range=(1, 2)), v2.RandomIoUCrop(), v2.RandomHorizontalFlip()],
    }[augment]
    return v2.Compose([_without_palette, *steps, v2.SanitizeBoundingBoxes(labels_getter=_labels_getter), plain])


def _labels_getter(sample: Any) -> Tensor:
    """The labels of a sample, of which an augmentation drops those whose boxes it cut away."""
    labels: Tensor = sample[1]["labels"]
    return labels


def _for_masks(model: nn.Module, augment: str) -> Callable[..., Any]:
    """The augmentations of a preset for images with masks, and then the preprocessing."""
    if augment in ("standard", "strong"):
        standard = zoo.transforms(model, train=True)
        colors = v2.ColorJitter(brightness=0.4, contrast=0.4)
        return v2.Compose([_without_palette, colors, standard]) if augment == "strong" else standard
    plain = zoo.transforms(model, size=sides_of(model))
    fill: dict[Any, Any] = {tv_tensors.Mask: IGNORED, "others": 0}
    shifts = v2.RandomAffine(_TURN, translate=(_SHIFT, _SHIFT), fill=fill)
    return v2.Compose([_without_palette, shifts, plain]) if augment == "light" else plain


def sides_of(model: nn.Module) -> tuple[int, int]:
    """Height and width that augmented images are brought to, to be one batch, for a model that takes any."""
    numbers = zoo.preprocessing(model)
    sides = numbers.crop or numbers.resize
    return sides[0], sides[-1]


def mixed_seed(seed: int, number: int) -> int:
    """Seed for augmenting one sample of a dataset, or for one epoch, far from its neighbours (SplitMix64's finalizer).

    Example:
        >>> mixed_seed(0, 1) != mixed_seed(1, 0)
        True
    """
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + number + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1
