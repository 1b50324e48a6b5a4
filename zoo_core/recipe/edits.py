"""The edits in a recipe: written as JSON, and repeated through the public functions of their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import zoo_core
from zoo_core.errors import Unreadable, UsageError
from zoo_core.recipe.edits_by_hand import VERB, change_by_hand
from zoo_core.recipe.json_arguments import from_plain, to_plain
from zoo_core.surgery.head.describe import Custom, Layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zoo_core.surgery.metadata import Edit


_VERBS = frozenset(
    {"adapt_stem", "add_lora", "branch", "encoder", "set_preprocessing", "swap_head", "swap_keypoints", "truncate"}
)
"""What a recipe may replay, and nothing else."""


def edit_to_plain(edit: Edit) -> dict[str, Any]:
    """An edit as the JSON of a recipe; arguments that equal the verb's defaults are left out.

    Raises:
        UsageError: An argument cannot be written.
    """
    defaults = {name: each.default for name, each in inspect.signature(_verb_named(edit.verb)).parameters.items()}
    said = {name: value for name, value in edit.arguments.items() if name not in defaults or value != defaults[name]}
    return {"verb": edit.verb, **{name: to_plain(each, f"{edit.verb}({name}=...)") for name, each in said.items()}}


def repeat(model: nn.Module, edit: Mapping[str, Any], heads: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """Do what an edit in a recipe says once more, through the public function of that name."""
    verb = _verb_named(edit["verb"])
    arguments = {name: _built(from_plain(each), heads or {}) for name, each in edit.items() if name != "verb"}
    return cast("nn.Module", verb(model, **arguments))


def _verb_named(name: str) -> Callable[..., Any]:
    """The public function that makes edits of that name: a recipe can call nothing else."""
    if name == VERB:
        return change_by_hand
    if name not in _VERBS:
        raise Unreadable(
            f"the recipe asks for {name!r}, which is no surgery that this zoo can do",
            cause="a newer zoo wrote it, or it was changed by hand",
            hint="load it with that version of zoo, or a newer one",
        )
    return cast("Callable[..., Any]", getattr(zoo_core, name))


def _built(value: Any, heads: Mapping[str, nn.Module], name: str = "main") -> Any:
    """An argument of an edit to repeat, with the modules that its descriptions stand for."""
    if isinstance(value, Layers):
        return value.build()
    if isinstance(value, Custom):
        return _given_head(value, heads, name)
    if isinstance(value, Mapping):
        return {key: _built(each, heads, str(key)) for key, each in value.items()}
    return value


def _given_head(custom: Custom, heads: Mapping[str, nn.Module], name: str) -> nn.Module:
    """Head by that name that the user gives, as only its own code can build it, for an edit to repeat."""
    if name not in heads:
        short = custom.kind.rpartition(".")[2]
        raise UsageError(
            f"the head {name!r} is a {custom.kind}, which only its own code can build",
            got=f"heads for {', '.join(heads)}" if heads else "no heads",
            hint=f'zoo.load(folder, heads={{"{name}": {short}(...)}})',
            name=name,
        )
    return heads[name]
