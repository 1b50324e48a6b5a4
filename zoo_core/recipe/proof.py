"""Proof, before anything is written, that a recipe makes the model that it is of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from zoo_core.errors import NotSupported, ZooError
from zoo_core.recipe.rebuild import customs_in, rebuild, refuse_custom

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.recipe.record import Recipe
    from zoo_core.surgery.metadata import Knowledge

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_BATCH_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
"""Taken for one: whether a batch norm is synchronised changes how it is trained, and not what it computes."""
_NOTHING = "nothing: it would not be there"


def prove(model: nn.Module, known: Knowledge, recipe: Recipe, *, custom: bool) -> None:
    """Build the model from its recipe, and compare every tensor's shape, and every module's class and settings.

    Args:
        model: The model, without wrappers.
        known: What zoo knows of it.
        recipe: What would be saved.
        custom: Whether heads of their own code, which only their owner can build, are left unproven.

    Raises:
        NotSupported: The recipe makes another model, or none.
    """
    heads = {
        name: head for edit in known.edits for value in edit.arguments.values() for name, head in customs_in(value)
    }
    if heads and not custom:
        refuse_custom(heads)
    if heads:
        return  # only whoever has their code can build it
    try:
        twin = rebuild(recipe, options=known.options)
    except ZooError as error:
        raise NotSupported(
            f"{recipe.id} cannot be built again as it is now",
            got=error.summary,
            cause=str(error.__cause__ or "") or None,
        ) from error
    _compare(model, "tensors", _shapes(model), _shapes(twin))
    _compare(model, "modules", _settings(model), _settings(twin))


def _shapes(model: nn.Module) -> dict[str, str]:
    return {name: f"of the shape {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()}


def _settings(model: nn.Module) -> dict[str, str]:
    """The class of each module and what it says of itself: an activation or a dropout rate shows in no tensor."""
    modules = model.named_modules(remove_duplicate=False)
    return {path or "the model itself": _described(module) for path, module in modules}


def _described(module: nn.Module) -> str:
    # some libraries say what their layers are in repr, and not in extra_repr where torch looks for it
    said = module.extra_repr() if next(module.children(), None) else repr(module)
    kind = type(module)
    if kind in _BATCH_NORMS:
        return f"a batch norm ({module.extra_repr()})"
    return f"a {kind.__module__}.{kind.__qualname__}: {_ADDRESS.sub('', said)}"


def _compare(model: nn.Module, what: str, now: Mapping[str, str], then: Mapping[str, str]) -> None:
    differing = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    if differing:
        name = differing[0]
        raise NotSupported(
            f"{len(differing)} {what} of this {type(model).__name__} are not what its recipe makes",
            expected=f"{name} {then.get(name, _NOTHING)}",
            got=f"{name} {now.get(name, _NOTHING)}",
            cause="the model was changed by hand, or adopted under another name or with other options",
            hint="zoo.swap_head and the other verbs change it in a way that can be repeated",
            names=tuple(differing),
        )
