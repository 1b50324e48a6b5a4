"""The cards of this family, from the file that ``python -m zoo_timm.index`` writes. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo_core.plugin import Card, read_cards


def cards() -> Sequence[Card]:
    """The catalogue of timm, read from its file: every architecture with its weights, in the library's order."""
    return read_cards(Path(__file__).with_name("catalog.jsonl"))


def version() -> str:
    """The version of the catalogue, which is that of the timm it was read from."""
    return Path(__file__).with_name("catalog.version").read_text(encoding="utf-8").strip()
