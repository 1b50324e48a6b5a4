"""The cards of this family, read from the file that ``python -m zoo_torchvision.index`` writes. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo_core.plugin import Card, read_cards


def cards() -> Sequence[Card]:
    """The catalogue of torchvision: every model with its weights, in the order of the library's own groups.

    Example:
        >>> resnet18 = next(card for card in cards() if card.name == "resnet18")
        >>> resnet18.find().sha256
        'f37072fd'
    """
    return read_cards(Path(__file__).with_name("catalog.jsonl"))


def version() -> str:
    """The version of the catalogue, which is that of the torchvision it was read from."""
    return Path(__file__).with_name("catalog.version").read_text(encoding="utf-8").strip()
