"""Where a part of a model went that surgery took out of its place: what an error about it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.surgery.metadata import knowledge_of, unwrap

if TYPE_CHECKING:
    from torch import nn


def cut_of(model: nn.Module) -> str | None:
    """What surgery took stages out of the model; None where nothing did.

    Example:
        >>> import zoo_core as zoo
        >>> cut_of(zoo.truncate(zoo.get("resnet18", weights=None), after="layer3"))
        "the model was cut after 'layer3'"
    """
    done = {edit.verb: edit.arguments for edit in knowledge_of(model).edits}
    if "branch" in done:
        return f"the model was branched: each branch has its own stages from {done['branch']['at']!r} on"
    return f"the model was cut after {done['truncate']['after']!r}" if "truncate" in done else None


def copies_of(model: nn.Module, path: str) -> str | None:
    """Where the branches of a model have the module that it had at ``path``; None where they have none."""
    result = [each for each, _ in unwrap(model).named_modules() if each.endswith(f".body.{path}")]
    return f"ask for {' or '.join(map(repr, result))}" if result else None
