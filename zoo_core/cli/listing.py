"""``zoo list``, also without click: importing click takes longer than all else that a plain list does."""

from __future__ import annotations

import json
import sys
from typing import Any

from zoo_core.registry.zoo import current_zoo


def print_models(
    pattern: str = "*", *, family: str | None = None, task: str | None = None, as_json: bool = False
) -> None:
    """Print the names of the models that match, one a line or as a JSON list."""
    names = current_zoo().list(pattern, family=family, task=task)
    lines = [json.dumps(names, indent=2)] if as_json else names
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()  # a reader that has gone is noticed here, where main can still say so quietly


def list_plainly(arguments: list[str]) -> bool:
    """Do what a plain ``zoo list`` asks for.

    Returns:
        Whether it was one. Anything else, ``--help`` and wrong usage included, is left to click.
    """
    asked = _plain(arguments[1:]) if arguments[:1] == ["list"] else None
    if asked is None:
        return False
    print_models(**asked)
    return True


def _plain(words: list[str]) -> dict[str, Any] | None:
    asked: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in ("--family", "--task"):
            value = value if equals else next(rest, "")
            asked[option.removeprefix("--")] = value
        elif word == "--json":
            asked["as_json"], value = True, word
        else:
            asked["pattern"], value = word, "" if word.startswith("-") or "pattern" in asked else word
        if not value:
            return None
    return asked
