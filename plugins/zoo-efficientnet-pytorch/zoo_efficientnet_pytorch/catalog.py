"""The cards of this family, from the file that ``python -m zoo_efficientnet_pytorch.index`` writes. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo_core.plugin import Card, read_cards


def cards() -> Sequence[Card]:
    """The catalogue of efficientnet_pytorch: every model with its weights, smallest first.

    Example:
        >>> {card.name: card.tags for card in cards()}["efficientnet-b8"]
        ('advprop',)
    """
    return read_cards(Path(__file__).with_name("catalog.jsonl"))


def version() -> str:
    """The version of the catalogue, which is that of the efficientnet_pytorch it was read from."""
    return Path(__file__).with_name("catalog.version").read_text(encoding="utf-8").strip()
