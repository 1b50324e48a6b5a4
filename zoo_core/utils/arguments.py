"""Arguments of public functions, checked: unknown keywords, and counts."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from zoo_core.errors import UnknownArgument, UsageError
from zoo_core.text import close_matches, did_you_mean

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
    return strict_arguments_of(function.__name__)(function)


def strict_arguments_of(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """:func:`strict_arguments` for a function that the public knows under another name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = tuple(inspect.signature(function).parameters)

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for argument in kwargs:
                if argument not in known:
                    raise unknown_argument(f"{name}()", argument, known)
            return function(*args, **kwargs)

        return checked

    return decorate


def unknown_argument(function: str, argument: object, known: Collection[str]) -> UnknownArgument:
    """The error for an argument that a function does not take, with the close match among those ``known``."""
    matches = close_matches(str(argument), known)
    return UnknownArgument(
        f"{function} has no argument {argument!r}",
        expected=", ".join(known),
        hint=did_you_mean(matches, "leave it out"),
        argument=argument,
        matches=matches,
    )


_COUNTS = 2**31
"""No count is as large; torch and NumPy overflow at larger ones, each in its own way."""


def check_sides(name: str, value: object) -> tuple[int, int]:
    """Height and width that the argument ``value`` is, or one integer for both; NumPy's integers too.

    Raises:
        UsageError: It is anything else.

    Example:
        >>> check_sides("size", 224), check_sides("size", (224, 320))
        ((224, 224), (224, 320))
    """
    sides: list[Any] = [*value] if isinstance(value, Iterable) and not isinstance(value, str) else [value, value]
    try:
        height, width = (check_count(name, side) for side in sides)
    except (UsageError, ValueError):
        raise UsageError(
            f"{name} cannot be {value!r}",
            expected="pixels, or height and width, such as 224 or (224, 320)",
            argument=name,
        ) from None
    return height, width


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """The argument ``value`` as it is, when it is an integer of at least ``least``; ``name`` is what callers call it.

    Raises:
        UsageError: It is anything else, a bool or a string of digits included, or has more than 31 bits.
    """
    try:
        result = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # whatever came
    except TypeError:
        result = -1
    if not least <= result < _COUNTS:
        hint = f"pass {value} without quotes" if isinstance(value, str) and value.isdecimal() else None
        raise UsageError(
            f"{name} cannot be {value!r:.60}",
            expected=f"an integer of at least {least}" + (f" and below {_COUNTS}" if result >= _COUNTS else ""),
            got=f"{value!r}, of type {type(value).__name__}",
            hint=hint,
            argument=name,
        )
    return result


def check_seed(seed: object) -> int:
    """Check the argument ``seed`` of a public function: an integer, as torch takes it.

    Raises:
        UsageError: It is no integer, or too large for torch.
    """
    try:
        result = operator.index(seed)  # type: ignore[arg-type]  # whatever the user gave
    except TypeError:
        result = None
    if result is None or isinstance(seed, bool) or not -(2**63) <= result < 2**64:
        raise UsageError(f"seed cannot be {seed!r}", expected="an integer that fits in 64 bits")
    return result
