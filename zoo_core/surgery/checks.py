"""Checks of what users pass in."""

from __future__ import annotations

import operator

from zoo_core.arguments import strict_arguments
from zoo_core.errors import UsageError

__all__ = ["check_count", "check_num_classes", "strict_arguments"]


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
