"""What the fields of a record may be: one line a field, and a message that names record, field and value."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from zoo_core.errors import AnatomyError
from zoo_core.text import close_matches, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


def require_words(record: object, **allowed: Sequence[str]) -> None:
    """Refuse a record with a field that is none of the words that it may be.

    Raises:
        AnatomyError: It is another one; the message has the word that was meant.

    Example:
        >>> from types import SimpleNamespace
        >>> require_words(SimpleNamespace(kind="liner"), kind=("linear", "conv"))
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: SimpleNamespace.kind is 'liner'; did you mean 'linear'?
    """
    for name, words in allowed.items():
        value = getattr(record, name)
        if value not in words:
            meant = did_you_mean(close_matches(str(value), words), f"it may be {', '.join(words)}")
            raise AnatomyError(f"{_of(record, name)} is {value!r:.80}; {meant}")


def require_counts(record: object, **least: int) -> None:
    """Refuse a record with a field that is no integer, or less than it may be; numpy's integers become Python's.

    Raises:
        AnatomyError: Such a field is there.

    Example:
        >>> from types import SimpleNamespace
        >>> require_counts(SimpleNamespace(stride=0), stride=1)
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: SimpleNamespace.stride must be an integer of at least 1, got 0
    """
    for name, smallest in least.items():
        value = getattr(record, name)
        try:
            number = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = -1
        if number < smallest:
            raise _wrong_field(record, name, f"an integer of at least {smallest}")
        if type(value) is not int:
            object.__setattr__(record, name, number)  # the records are frozen, once they are made


def require_text(record: object, *names: str, or_none: bool = False) -> None:
    """Refuse a record with a field that is no text, or an empty one; with ``or_none`` it may be None.

    Raises:
        AnatomyError: Such a field is there.
    """
    for name in names:
        value = getattr(record, name)
        if not (isinstance(value, str) and value) and not (or_none and value is None):
            raise _wrong_field(record, name, f"a text{' or None' if or_none else ''}")


def require_tuple(record: object, **of: type) -> None:
    """Refuse a field of a record that is no tuple of things of one type; empty texts in it are refused too.

    Raises:
        AnatomyError: Such a field is there. A single text, whose letters would be taken for its entries, is one.

    Example:
        >>> from types import SimpleNamespace
        >>> require_tuple(SimpleNamespace(modules="layer1"), modules=str)
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: SimpleNamespace.modules must be a tuple of str, got 'layer1'
    """
    for name, kind in of.items():
        value = getattr(record, name)
        kinds = (int, float) if kind is float else kind
        if not isinstance(value, tuple) or not all(isinstance(each, kinds) and each != "" for each in value):
            raise _wrong_field(record, name, f"a tuple of {kind.__name__}")


def require_callable(record: object, *names: str, or_text: bool = False) -> None:
    """Refuse a field of a record that is neither None nor callable; a text will do where ``or_text`` says so.

    Raises:
        AnatomyError: Such a field is there.
    """
    for name in names:
        value = getattr(record, name)
        if not (value is None or callable(value) or (or_text and isinstance(value, str) and value)):
            raise _wrong_field(record, name, f"{'a text, ' if or_text else ''}a function or None")


def require(record: object, name: str, right: object, expected: str) -> None:
    """Refuse a field of a record for a reason of its own.

    Raises:
        AnatomyError: It is not right.
    """
    if not right:
        raise _wrong_field(record, name, expected)


def _wrong_field(record: object, name: str, expected: str) -> AnatomyError:
    """What is wrong with a field of a record, as an error with the names of both, what it may be, and its value."""
    value: Any = getattr(record, name)
    return AnatomyError(f"{_of(record, name)} must be {expected}, got {value!r:.80}")


def _of(record: object, name: str) -> str:
    """The name of a field, with that of its record, for the error that refuses it."""
    return f"{type(record).__name__}.{name}"
