"""The ``config.json`` by which timm loads a shared model without zoo, where the model is one of timm's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.build.get import get
from zoo_core.contract.card import Preprocessing
from zoo_core.errors import ZooError
from zoo_core.recipe.rebuild import Limit, options_of
from zoo_core.recipe.save_folder import preprocessing_of_save
from zoo_core.weights.formats.safetensors import read_safetensors

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.recipe.record import Recipe

_PLAIN = {"swap_head", "adapt_stem", "set_preprocessing", "freeze", "unfreeze"}
"""Edits after which a model may still be what timm builds."""
_MODES = {"squash": "squash", "cover": "center", "border": "border"}
_FILTERS = {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}


def timm_config(recipe: Recipe, tensors: Path) -> dict[str, Any] | None:
    """What timm reads of a model; None for one that timm would not build with these tensors, or give other images.

    Whether it would is tried on the meta device: names and shapes have to be those of the file.
    """
    if recipe.family != "timm" or recipe.from_base or recipe.ties or {e["verb"] for e in recipe.edits} - _PLAIN:
        return None
    heads = [edit.get("head") for edit in recipe.edits if edit["verb"] == "swap_head"]
    channels = [edit.get("in_channels") for edit in recipe.edits if edit["verb"] == "adapt_stem"]
    options = {name: value for name, value in recipe.options.items() if name != "model_name"}
    classes, channel = (heads or [None])[-1], (channels or [None])[-1]
    model = _built_by_timm(recipe, tensors, classes, channel, options)
    if model is None:
        return None
    own = dict(getattr(model, "pretrained_cfg", None) or {})
    known = preprocessing_of_save(recipe)
    numbers = {} if known is None else _numbers(known)
    size = list(own.get("input_size") or (3, 224, 224))
    is_fixed = own.get("fixed_input_size") and "img_size" not in options  # timm would build it for images of that size
    if numbers is None or (is_fixed and numbers.get("input_size", size)[-2:] != size[1:]):
        return None
    count = getattr(model, "num_classes", classes)
    config = {"input_size": [channel or size[0], *size[1:]], "num_classes": count, **numbers}
    for name in ("first_conv", "classifier", "pool_size", "fixed_input_size"):
        if own.get(name) is not None:
            config[name] = own[name]
    arguments = {**options, **({"in_chans": channel} if channel else {})}
    result = {
        "architecture": recipe.options.get("model_name", recipe.name),
        "num_classes": count,
        "pretrained_cfg": config,
    }
    result |= {"label_names": recipe.class_names} if recipe.class_names else {}
    return result | ({"model_args": arguments} if arguments else {})


def _built_by_timm(
    recipe: Recipe, tensors: Path, classes: int | None, channel: int | None, options: Mapping[str, Any]
) -> nn.Module | None:
    """The model as timm will build it from a shared config, on the meta device, if it has the tensors of the file."""
    if not all(each is None or type(each) is int for each in (classes, channel)):
        return None
    try:
        options_of(recipe)  # the folder may be a stranger's, and timm fetches and opens what some options name
        held = read_safetensors(tensors)[0]
        with Limit(recipe.id, held):
            model = get(
                recipe.id, weights=None, num_classes=classes, in_channels=channel, options=options, device="meta"
            )
    except ZooError:
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
    return model if shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} else None


def _numbers(known: Preprocessing) -> dict[str, Any] | None:
    """A preprocessing in timm's words; None for one that timm has no words for, and would do otherwise."""
    by_shorter_side = len(known.resize) == 1
    size = known.crop or (() if by_shorter_side else known.resize)
    scale = known.resize * 2 if by_shorter_side else known.resize
    percent = _crop_pct(size, scale) if size and scale else None
    finite = all(map(math.isfinite, (*known.mean, *known.std)))
    turned = known.channel_order == "BGR" and len(known.mean) > 1
    if (
        percent is None
        or not finite
        or turned
        or not known.antialias
        or known.interpolation not in _FILTERS
        or (by_shorter_side and size[0] != size[1])
    ):
        return None
    return {
        "input_size": [len(known.mean), *size],
        "interpolation": known.interpolation,
        "mean": [value / known.value_range for value in known.mean],
        "std": [value / known.value_range for value in known.std],
        "crop_pct": percent,
        "crop_mode": "center" if by_shorter_side else _MODES[known.fit],
    }


def _crop_pct(size: Sequence[int], scale: Sequence[int]) -> float | None:
    """The share of the crop in timm's config, of which timm makes the resize again: ``floor(crop / share)``.

    Example:
        >>> _crop_pct((160, 160), (168, 168)), _crop_pct((224, 224), (256, 256))
        (0.95, 0.875)
    """
    highest = min(side / long for side, long in zip(size, scale, strict=True))
    lowest = max(side / (long + 1) for side, long in zip(size, scale, strict=True))
    tried = (*(round(highest, digits) for digits in range(2, 7)), (lowest + highest) / 2)
    fits = (each for each in tried if all(math.floor(a / each) == b for a, b in zip(size, scale, strict=True)))
    return next(fits, None)
