"""Checks of what users pass in, and suggestions for what they may have meant."""

from __future__ import annotations

import inspect
import operator
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from zoo_core.errors import UnknownArgument, UsageError, close_matches, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def strict_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Make an unknown keyword of a public function an error that names the close match.

    Example:
        >>> strict_arguments(lambda num_classes=1: num_classes)(num_class=9)
        Traceback (most recent call last):
        ...
        zoo_core.errors.UnknownArgument: <lambda>() has no argument 'num_class'
          expected: num_classes
          next step: did you mean 'num_classes'?
    """
    known = tuple(inspect.signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                matches = close_matches(name, known)
                raise UnknownArgument(
                    f"{function.__name__}() has no argument {name!r}",
                    expected=", ".join(known),
                    hint=did_you_mean(matches, "leave it out"),
                    argument=name,
                    matches=matches,
                )
        return function(*args, **kwargs)

    return checked


def check_num_classes(num_classes: object) -> int:
    """``num_classes`` as it is, when it is a positive whole number.

    Raises:
        UsageError: It is anything else, a bool or a string of digits included.
    """
    return check_count("num_classes", num_classes)


def check_count(name: str, value: object) -> int:
    """``value`` as it is, when it is a positive whole number; ``name`` is what the caller calls it.

    Raises:
        UsageError: It is anything else, a bool or a string of digits included.
    """
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # whatever came
    except TypeError:
        found = 0
    if found < 1:
        hint = f"pass {int(value)} without quotes" if isinstance(value, str) and value.isdigit() else None
        raise UsageError(
            f"{name} cannot be {value!r}",
            expected="a whole number of at least 1",
            got=f"{value!r}, of type {type(value).__name__}",
            hint=hint,
            argument=name,
        )
    return found
