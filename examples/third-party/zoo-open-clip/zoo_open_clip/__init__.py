"""The open_clip family: image towers, which give embeddings and have a place for a classifier."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from zoo_core.plugin import Card, Family, hookimpl, read_cards

if TYPE_CHECKING:
    from collections.abc import Sequence


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin."""
    return [
        Family(
            name="open_clip",
            requires="open-clip-torch",
            catalog="zoo_open_clip:cards",
            anatomy="zoo_open_clip.tower:anatomy",
            tested=">=3.3,<3.4",
            plain_options=("quick_gelu",),
        )
    ]


def cards() -> Sequence[Card]:
    """The towers, from the file that ``python -m zoo_open_clip.index`` writes. No torch here.

    Example:
        >>> {card.name: card.default for card in cards()}["ViT-B-16-SigLIP2"]
        'webli'
    """
    return read_cards(files("zoo_open_clip").joinpath("catalog.jsonl"))
