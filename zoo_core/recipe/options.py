"""Which options of a recipe reach a library's constructor: a saved folder may come from a stranger.

A constructor can do anything with its arguments: timm's fetches the url of a ``pretrained_cfg``. So an option counts
when the plugin's own catalogue has it with that value for the model, or when the family lists its name as plain
architecture (``Family.plain_options``) and its value is a number, a boolean, None, a short word or a layer of torch.
Everything else is the user's to say: ``zoo.load(folder, options={...})``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from zoo_core.errors import Unreadable
from zoo_core.surgery.head.describe import LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.contract.card import Card

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
"""Of an activation or a kind of pooling. Nothing that fits it is a path, a url or a reference to code."""
_LARGEST = 1 << 20
"""No size in any architecture comes near it; a constructor given more would fill the memory."""


def allowed_options(
    card: Card, options: Mapping[str, Any], plain: tuple[str, ...], own: Mapping[str, Any]
) -> dict[str, Any]:
    """What the constructor is given: the card's options, under those of the recipe that are allowed, under the user's.

    Args:
        card: Of the model, from the plugin here.
        options: What the recipe says, as values.
        plain: The names that the family lists as plain architecture.
        own: What the user says.

    Raises:
        Unreadable: The recipe has an option that neither the card nor the family allows.
    """
    refused = [
        name
        for name, value in options.items()
        if name not in own and not _of_the_card(card, name, value) and not (name in plain and _is_plain(value))
    ]
    if refused:
        name = refused[0]
        raise Unreadable(
            f"the recipe of {card.id} gives its constructor an option that a folder may not set: {name}",
            expected=f"options of the card, or numbers and short words for {', '.join(plain) or 'none'}",
            got=f"{name}={str(options[name])[:100]!r}",
            done="nothing was built",
            cause="an option can make a library fetch or open whatever it names, and the folder may be a stranger's",
            hint=f"where you know that it is right: zoo.load(folder, options={{{name!r}: ...}})",
        )
    return {**card.options, **options, **own}


def _of_the_card(card: Card, name: str, value: object) -> bool:
    return any(
        name in known and _same(known[name], value)
        for known in (card.options, *(weights.options for weights in card.weights))
    )


def _same(known: object, value: object) -> bool:
    """Whether a value is the catalogue's own: JSON and a catalogue may differ in lists and tuples alone."""
    if isinstance(known, list | tuple) and isinstance(value, list | tuple):
        return len(known) == len(value) and all(map(_same, known, value))
    return type(known) is type(value) and known == value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) and not isinstance(each, list | tuple) for each in value)
    if isinstance(value, type):
        return value in LAYERS.values()
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= _LARGEST)
