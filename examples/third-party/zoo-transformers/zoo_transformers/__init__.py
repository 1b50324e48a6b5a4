"""The transformers family: image classifiers and backbones of the Hugging Face library, as its own modules."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from zoo_core.plugin import Card, Family, hookimpl, read_cards

if TYPE_CHECKING:
    from collections.abc import Sequence


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin; it declares no anatomy, so zoo traces it."""
    return [
        Family(
            name="transformers",
            requires="transformers",
            catalog="zoo_transformers:cards",
            tested=">=5.23,<5.24",
            exceptions="zoo_transformers.expected:EXPECTED",
            image_size="image_size",
        )
    ]


def cards() -> Sequence[Card]:
    """The models, from the file that ``python -m zoo_transformers.index`` writes. No torch here.

    Example:
        >>> {card.name: card.default for card in cards()}["deit-tiny-patch16-224"]
        'imagenet-1k'
    """
    return read_cards(files("zoo_transformers").joinpath("catalog.jsonl"))
