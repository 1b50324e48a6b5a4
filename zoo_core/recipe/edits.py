"""The edits in a recipe: written as JSON with their arguments, and repeated through the functions of their names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

import zoo_core
from zoo_core.contract.card import Preprocessing
from zoo_core.errors import Unreadable, UsageError
from zoo_core.recipe.edits_by_hand import change_by_hand
from zoo_core.surgery.editing import BY_HAND
from zoo_core.surgery.head.describe import LAYERS, Custom, Layers
from zoo_core.surgery.head.mlp import MLPHead

if TYPE_CHECKING:
    from zoo_core.surgery.metadata import Edit

_VERBS = frozenset(
    {"adapt_stem", "add_lora", "branch", "encoder", "set_preprocessing", "swap_head", "swap_keypoints", "truncate"}
)
"""What a recipe may replay, and nothing else."""
RECORDS: dict[str, type] = {
    "custom": Custom,
    "layers": Layers,
    "mlp_head": MLPHead,
    "preprocessing": Preprocessing,
}
"""The records that a recipe can hold, by the name that it has for them: nothing else is made because a file says so."""
_DTYPES = {str(each).removeprefix("torch."): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
_NAMES = {kind: name for name, kind in RECORDS.items()}
_OLD = re.compile(r"zoo_core\.[\w.]+:(\w+)")
"""How recipes once named a record: by where it was defined."""
_TUPLE, _PAIRS, _DTYPE, _LAYER, _RECORD = "$tuple", "$pairs", "$dtype", "$layer", "$record"


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
    if name == BY_HAND:
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
    """The head that the user gives to repeat an edit in a recipe with, as only its own code can build it."""
    if name not in heads:
        short = custom.kind.rpartition(".")[2]
        raise UsageError(
            f"the head {name!r} is a {custom.kind}, which only its own code can build",
            got=f"heads for {', '.join(heads)}" if heads else "no heads",
            hint=f'zoo.load(folder, heads={{"{name}": {short}(...)}})',
            name=name,
        )
    return heads[name]


def to_plain(value: object, where: str) -> Any:
    """``value``, an argument of an edit, as JSON can write it.

    Args:
        value: Plain values, tuples, dtypes, classes of ``torch.nn``, zoo's own frozen records, and containers of them.
        where: What to call it in an error.

    Raises:
        UsageError: It holds something else.

    Example:
        >>> to_plain({"size": (2, 2), "dtype": torch.float16}, "options")
        {'size': {'$tuple': [2, 2]}, 'dtype': {'$dtype': 'float16'}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        items = [to_plain(each, where) for each in value]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return _mapping(value, where)
    worded = _to_worded(value, where)
    if worded:
        return worded
    raise UsageError(
        f"{where} cannot be written into a recipe",
        expected="numbers, strings, None, tuples, lists, dicts, dtypes and layer classes of torch.nn",
        got=repr(value)[:200],
        hint="save model.state_dict() instead, and build the model in your own code",
    )


def _to_worded(value: object, where: str) -> dict[str, Any]:
    """Argument of an edit that is no plain JSON value, under the word for it; empty for what has none."""
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    layer = value.__name__ if isinstance(value, type) else ""
    if layer and LAYERS.get(layer) is value:
        return {_LAYER: layer}
    if name := _NAMES.get(type(value)):
        return {_RECORD: name, **_fields(value, where)}
    return {}


def _mapping(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """An argument of an edit that is a mapping, as JSON can write it: as pairs where not all keys are plain strings."""
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: to_plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    return {_PAIRS: [[to_plain(key, where), to_plain(each, where)] for key, each in value.items()]}


def _fields(value: Any, where: str) -> dict[str, Any]:
    """An argument of an edit that is a record, as JSON: without fields that equal their defaults, tuples as lists."""
    named = {spec.name: (spec, getattr(value, spec.name)) for spec in fields(value)}
    kept = {name: each for name, (spec, each) in named.items() if each not in (spec.default, {})}
    return {
        name: [to_plain(one, where) for one in each] if isinstance(each, tuple) else to_plain(each, where)
        for name, each in kept.items()
    }


def from_plain(value: Any) -> Any:
    """The argument of an edit that :func:`to_plain` made plain for JSON.

    Raises:
        Unreadable: There is no such record, dtype or layer.

    Example:
        >>> from_plain({"size": {"$tuple": [2, 2]}, "dtype": {"$dtype": "float16"}})
        {'size': (2, 2), 'dtype': torch.float16}
    """
    if isinstance(value, list):
        return [from_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    read = next((read for word, read in _READERS.items() if word in value), None)
    if read is None:
        return {key: from_plain(each) for key, each in value.items()}
    try:
        return read(value)
    except (AttributeError, TypeError, ValueError) as error:  # a word over something that it cannot be said of
        raise _unknown_word(value) from error


def holds_custom(value: Any) -> bool:
    """Whether arguments of an edit, as JSON, hold a head that only its own code can build."""
    if isinstance(value, dict):
        return _record_class(value.get(_RECORD)) is Custom or any(holds_custom(each) for each in value.values())
    return isinstance(value, list) and any(holds_custom(each) for each in value)


def _record(value: dict[str, Any]) -> Any:
    """The argument of an edit, a record, that JSON stands for."""
    kind = _record_class(value[_RECORD])
    if kind is None:
        raise _unknown_word(value)
    entries = {key: from_plain(each) for key, each in value.items() if key != _RECORD}
    return kind(**{key: tuple(each) if isinstance(each, list) else each for key, each in entries.items()})


def _record_class(name: object) -> type | None:
    """Class of the record that the JSON of an edit names, or that was called so when older recipes were written."""
    old = _OLD.fullmatch(str(name))
    if old:
        return next((kind for kind in _NAMES if kind.__name__ == old[1]), None)
    return RECORDS.get(str(name))


def _allowed_word(table: Mapping[str, Any], word: str, value: Mapping[str, Any]) -> Any:
    """What a word in the JSON of an edit stands for, by the table of what is allowed."""
    result = table.get(str(value[word]))
    if result is None:
        raise _unknown_word(value)
    return result


def _unknown_word(value: object) -> Unreadable:
    """Error for a word in the JSON of an edit that stands for nothing that is known."""
    return Unreadable(
        f"the recipe holds something that this zoo does not know: {value!r}",
        cause="another version of zoo or of torch wrote it, or it was changed by hand",
    )


_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    _TUPLE: lambda value: tuple(from_plain(value[_TUPLE])),
    _PAIRS: lambda value: {from_plain(key): from_plain(each) for key, each in value[_PAIRS]},
    _DTYPE: lambda value: _allowed_word(_DTYPES, _DTYPE, value),
    _LAYER: lambda value: _allowed_word(LAYERS, _LAYER, value),
    _RECORD: _record,
}
