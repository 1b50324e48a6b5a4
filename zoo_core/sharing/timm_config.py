"""The ``config.json`` by which timm loads a shared model without zoo, where the model is one of timm's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_core.build.get import get
from zoo_core.errors import ZooError
from zoo_core.recipe.rebuild import Limit, options_of
from zoo_core.weights.formats.read import read_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.recipe.record import Recipe

_PLAIN = {"swap_head", "adapt_stem", "set_preprocessing", "freeze", "unfreeze"}
"""Edits after which a model may still be what timm builds."""


def timm_config(recipe: Recipe, tensors: Path) -> dict[str, Any] | None:
    """What timm reads of a model; None for one that timm would not build with these tensors.

    Whether it would is tried on the meta device: names and shapes have to be those of the file.

    Args:
        recipe: Of the save.
        tensors: The safetensors beside it.
    """
    if recipe.family != "timm" or recipe.from_base or recipe.ties or {e["verb"] for e in recipe.edits} - _PLAIN:
        return None
    heads = [edit.get("head") for edit in recipe.edits if edit["verb"] == "swap_head"]
    channels = [edit.get("in_channels") for edit in recipe.edits if edit["verb"] == "adapt_stem"]
    options = {name: value for name, value in recipe.options.items() if name != "model_name"}
    classes, channel = (heads or [None])[-1], (channels or [None])[-1]
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
    if shapes != {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}:
        return None
    own = dict(getattr(model, "pretrained_cfg", None) or {})
    count = getattr(model, "num_classes", classes)
    config = {"input_size": list(own.get("input_size") or (3, 224, 224)), "num_classes": count, **_numbers(recipe)}
    config["input_size"] = [channel or config["input_size"][0], *config["input_size"][1:]]
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


def _numbers(recipe: Recipe) -> dict[str, Any]:
    """Its preprocessing in timm's words."""
    known: Any = recipe.preprocessing
    latest = [edit.get("preprocessing") for edit in recipe.edits if edit["verb"] == "set_preprocessing"]
    known = latest[-1] if latest else known
    if not isinstance(known, dict) or not {"mean", "std", "interpolation"} <= known.keys():
        return {}
    result = {name: known[name] for name in ("mean", "std", "interpolation")}
    if known.get("crop") and known.get("resize"):
        result["crop_pct"] = round(min(known["crop"]) / min(known["resize"]), 4)
    return result
