"""What is a save, and what is in one, from its recipe alone. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.recipe.record import FILE, read_recipe
from zoo_core.utils.paths import expand, is_written_as_path
from zoo_core.weights.hub_folder import fetch_folder, is_hub_name

if TYPE_CHECKING:
    import os

_SHOWN = 10


def is_save(model: str | os.PathLike[str]) -> bool:
    """Whether something is a save, here or on the hub, or is written as a path and not as a name."""
    if is_hub_name(model):
        return True
    return is_written_as_path(model) or (Path(model) / FILE).is_file()


def outline_of(name: str, *, as_json: bool = False) -> str:
    """What a save is, in a few lines or as its recipe.

    Raises:
        Unreadable: It is none.
    """
    folder = fetch_folder(name) if is_hub_name(name) else expand(name)
    recipe = read_recipe(folder / FILE)
    if as_json:
        return recipe.text().rstrip()
    names = recipe.class_names
    lines = {
        "model": recipe.id + (f", from {recipe.weights['tag']}" if recipe.weights.get("tag") else ""),
        "surgery": ", ".join(str(edit["verb"]) for edit in recipe.edits),
        "classes": f"{len(names)}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        if names
        else "",
        "preprocessing": ", ".join(f"{key} {value}" for key, value in recipe.preprocessing.items()),
        "frozen": ", ".join(recipe.frozen),
        "tensors": f"{recipe.tensors['file']}, {recipe.tensors.get('size', 0):,} bytes, {recipe.dtype}",
        "saved with": ", ".join(f"{key} {value}" for key, value in recipe.versions.items()),
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items() if value)
