"""The cards of this family, from the file that ``python -m zoo_pretrainedmodels.index`` writes. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo_core.plugin import Card, read_cards


def cards() -> Sequence[Card]:
    """The catalogue of pretrainedmodels: every model with its weights, in the library's own order.

    Example:
        >>> {card.name: card.tags for card in cards()}["inceptionv4"]
        ('imagenet', 'imagenet+background')
    """
    return read_cards(Path(__file__).with_name("catalog.jsonl"))


def version() -> str:
    """The version of the catalogue, which is that of the pretrainedmodels it was read from."""
    return Path(__file__).with_name("catalog.version").read_text(encoding="utf-8").strip()
