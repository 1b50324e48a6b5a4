"""The segmentation_models family: the encoders of segmentation_models_pytorch, which have no head."""

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
            name="segmentation_models",
            requires="segmentation-models-pytorch",
            catalog="zoo_segmentation_models:cards",
            anatomy="zoo_segmentation_models.anatomy:anatomy",
            tested=">=0.6,<0.7",
        )
    ]


def cards() -> Sequence[Card]:
    """The encoders, from the file that ``python -m zoo_segmentation_models.index`` writes. No torch here.

    Example:
        >>> {card.name: card.tags for card in cards()}["resnet18"]
        ('imagenet', 'ssl', 'swsl')
    """
    return read_cards(files("zoo_segmentation_models").joinpath("catalog.jsonl"))
