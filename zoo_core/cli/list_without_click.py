"""``zoo list``, also without click: importing click takes longer than all else that a plain list does."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from zoo_core.cli.console import VERBOSITY
from zoo_core.registry.choose import HEADER, cells
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import table, visible

_COLUMNS = 80


def print_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    task: str | None = None,
    as_json: bool = False,
    as_table: bool = False,
    **filters: Any,
) -> None:
    """Print, without click, the models that match: names, one a line, JSON, or a table of what they cost."""
    zoo = current_zoo()
    if as_table or any(value is not None for value in filters.values()):
        entries = zoo.choose(pattern, family=family, task=task, **filters)
        names = [entry.id for entry in entries]
    else:
        names, entries = zoo.list(pattern, family=family, task=task), []
    if as_table:
        by_accuracy = filters.get("sort") == "accuracy" or filters.get("min_accuracy") is not None
        license_ = filters.get("license")
        is_default = license_ is None and not by_accuracy
        rows = [cells(entry, None if is_default else entry.best(license_)) for entry in entries]
        width = shutil.get_terminal_size((_COLUMNS, 24)).columns if sys.stdout.isatty() else None
        lines = [
            *table([HEADER, *rows], columns=width, figures=range(1, len(HEADER) - 1)),
            f"{len(rows)} model{'' if len(rows) == 1 else 's'}",
        ]
        if as_json:
            lines = [json.dumps([dict(zip(HEADER, row, strict=True)) for row in rows], indent=2)]
    else:
        lines = [json.dumps(names, indent=2)] if as_json else names
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()  # a reader that has gone is noticed here, where main can still say so quietly
    if not names and not VERBOSITY.quiet:
        sys.stderr.write(f"no model matches{_next_pattern(pattern)}\n")


def _next_pattern(pattern: str) -> str:
    """What ``zoo list``, with click or without click, adds where a pattern is a part of a name."""
    if pattern == "*" or any(letter in pattern for letter in "*?["):
        return ""
    family, slash, name = pattern.rpartition("/")
    wider = f"{family}{slash}*{name}*"
    if not current_zoo().list(wider):
        return ""
    return visible(f" {pattern!r}: zoo list '{wider}' lists the names that contain it")


def list_plainly(arguments: list[str]) -> bool:
    """Do what a plain ``zoo list`` requests, without click.

    Returns:
        Whether it was one. Anything else, ``--help`` and wrong usage included, is left to click.
    """
    request = _parse_plain(arguments[1:]) if arguments[:1] == ["list"] else None
    if request is None:
        return False
    print_models(**request)
    return True


_TEXTS = {"--family": "family", "--task": "task", "--license": "license", "--sort": "sort"}
_NUMBERS = {"--max-parameters": "max_parameters", "--min-accuracy": "min_accuracy", "--input-size": "input_size"}
_FLAGS = {"--json": "as_json", "--table": "as_table"}


def _parse_plain(words: list[str]) -> dict[str, Any] | None:
    """Parse the arguments of ``zoo list`` without click; None where click has to say what is wrong."""
    request: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in _TEXTS or option in _NUMBERS:
            value = value if equals else next(rest, "")
            try:
                request[{**_TEXTS, **_NUMBERS}[option]] = value if option in _TEXTS else number(value)
            except ValueError:
                return None
        elif word in _FLAGS:
            request[_FLAGS[word]], value = True, word
        else:
            request["pattern"], value = word, "" if word.startswith("-") or "pattern" in request else word
        if not value:
            return None
    return request


def number(text: str) -> float:
    """A number that limits ``zoo list``, read without click as people write it, such as 10M.

    Raises:
        ValueError: It is none.

    Example:
        >>> number("10M"), number("2.5e6"), number("80")
        (10000000.0, 2500000.0, 80.0)
    """
    unit = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}.get(text[-1:].lower())
    result = float(text[:-1]) * unit if unit else float(text)
    if result != result or result < 0:  # noqa: PLR0124 - nan is not itself
        raise ValueError(text)
    return result
