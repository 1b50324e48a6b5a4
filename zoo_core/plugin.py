"""What the author of a plugin imports: the records of a catalogue, the parts of an anatomy, the hook, and errors.

Importing this is light: nothing here imports torch until :func:`measure_stages` is used.
"""

from __future__ import annotations

from typing import Any

from zoo_core.contract.anatomy import Anatomy, Head, InputScaling, Stage
from zoo_core.contract.card import Card, Licenses, Preprocessing, Weights
from zoo_core.contract.card_file import read_cards, write_cards
from zoo_core.contract.chain import Chain, flatten
from zoo_core.contract.family import Family
from zoo_core.contract.hooks import hookimpl
from zoo_core.errors import AnatomyError, ZooError
from zoo_core.text import visible

__all__ = [
    "Anatomy",
    "AnatomyError",
    "Card",
    "Chain",
    "Family",
    "Head",
    "InputScaling",
    "Licenses",
    "Preprocessing",
    "Stage",
    "Weights",
    "ZooError",
    "flatten",
    "hookimpl",
    "measure_stages",  # noqa: F822 - imported when it is used, for it needs torch
    "read_cards",
    "visible",
    "write_cards",
]


def __getattr__(name: str) -> Any:
    if name != "measure_stages":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zoo_core.surgery.features.measure_stages import measure_stages

    return measure_stages
