"""Which versions a model was saved with, and whether those here are others."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from zoo_core.errors import ZooWarning
from zoo_core.registry.zoo import current_zoo

if TYPE_CHECKING:
    from zoo_core.recipe.record import Recipe

_COMPARED_BY_FORMAT = {"zoo-core", "torch"}
"""Not compared: the format number speaks for zoo, and torch keeps reading what older ones computed."""


def versions_for(family: str) -> dict[str, str]:
    """Distribution to version: zoo, torch, the plugin of that family and the library it builds with."""
    member = current_zoo().member(family)
    plugin, _, number = member.plugin.origin.rpartition(" ")
    found = {name: _version(name) for name in ("zoo-core", "torch", member.family.requires) if name}
    return {**found, **({plugin: number} if plugin else {})}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def warn_of_others(recipe: Recipe, stacklevel: int) -> None:
    """Warn when the family's library or plugin is of another version than the model was saved with."""
    now = versions_for(recipe.family)
    saved = {name: number for name, number in recipe.versions.items() if name not in _COMPARED_BY_FORMAT}
    others = [f"{name} {then}, here {now[name]}" for name, then in saved.items() if now.get(name, then) != then]
    if others:
        warnings.warn(
            f"{recipe.id} was saved with {'; '.join(others)}: its scores may differ in the last digits or more",
            ZooWarning,
            stacklevel=stacklevel,
        )
