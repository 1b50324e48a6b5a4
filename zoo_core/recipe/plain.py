"""Arguments as JSON and back: plain values as they are, anything else under a word that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from zoo_core.errors import Unreadable, UsageError

_OURS = "zoo_core."
_TUPLE, _PAIRS, _DTYPE, _LAYER, _RECORD = "$tuple", "$pairs", "$dtype", "$layer", "$record"


def to_plain(value: object, where: str) -> Any:  # noqa: ANN401 - whatever json can write
    """``value`` as JSON can write it.

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
    worded = _worded(value, where)
    if worded:
        return worded
    raise UsageError(
        f"{where} cannot be written into a recipe",
        expected="numbers, strings, None, tuples, lists, dicts, dtypes and layer classes of torch.nn",
        got=repr(value)[:200],
        hint="save model.state_dict() instead, and build the model in your own code",
    )


def _worded(value: object, where: str) -> dict[str, Any]:
    """What is no plain value under the word for it; empty for what has none."""
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    name = value.__name__ if isinstance(value, type) else ""
    if name and getattr(nn, name, None) is value:
        return {_LAYER: name}
    if is_dataclass(value) and type(value).__module__.startswith(_OURS):
        return {_RECORD: f"{type(value).__module__}:{type(value).__qualname__}", **_fields(value, where)}
    return {}


def _mapping(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: to_plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    return {_PAIRS: [[to_plain(key, where), to_plain(each, where)] for key, each in value.items()]}


def _fields(value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401 - any of our records
    """The fields of a record; those that equal their defaults are left out, and tuples look like lists."""
    named = {spec.name: (spec, getattr(value, spec.name)) for spec in fields(value)}
    kept = {name: each for name, (spec, each) in named.items() if each not in (spec.default, {})}
    return {
        name: [to_plain(one, where) for one in each] if isinstance(each, tuple) else to_plain(each, where)
        for name, each in kept.items()
    }


def from_plain(value: Any) -> Any:  # noqa: ANN401 - as above
    """What :func:`to_plain` made plain.

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
    return read(value) if read else {key: from_plain(each) for key, each in value.items()}


def _record(value: dict[str, Any]) -> Any:  # noqa: ANN401 - a record of ours
    path, rest = str(value[_RECORD]), {key: each for key, each in value.items() if key != _RECORD}
    try:
        # nothing but zoo's own records is ever looked up by what stands in a file
        kind = resolve_name(path) if path.startswith(_OURS) else None
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise _unknown(value)
        entries = {key: from_plain(each) for key, each in rest.items()}
        return kind(**{key: tuple(each) if isinstance(each, list) else each for key, each in entries.items()})
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise _unknown(value) from error


def _checked(found: object, kind: type, value: object) -> object:
    if not isinstance(found, kind):
        raise _unknown(value)
    return found


def _unknown(value: object) -> Unreadable:
    return Unreadable(
        f"the recipe holds something that this zoo does not know: {value!r}",
        cause="another version of zoo or of torch wrote it, or it was changed by hand",
    )


_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    _TUPLE: lambda value: tuple(from_plain(value[_TUPLE])),
    _PAIRS: lambda value: {from_plain(key): from_plain(each) for key, each in value[_PAIRS]},
    _DTYPE: lambda value: _checked(getattr(torch, str(value[_DTYPE]), None), torch.dtype, value),
    _LAYER: lambda value: _checked(getattr(nn, str(value[_LAYER]), None), type, value),
    _RECORD: _record,
}
