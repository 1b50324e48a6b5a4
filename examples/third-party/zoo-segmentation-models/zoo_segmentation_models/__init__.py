"""The segmentation_models family: the encoders of segmentation_models_pytorch, and its decoders on a few of them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from zoo_core.plugin import Card, Family, hookimpl, read_cards

if TYPE_CHECKING:
    from collections.abc import Sequence


_DECODERS = (
    *("deeplabv3", "deeplabv3plus", "fpn", "linknet", "manet", "pan"),
    *("pspnet", "segformer", "unet", "unetplusplus", "upernet"),
)
_ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0")


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
            plain_options=("aux_classes", "encoder_name"),
        )
    ]


def cards() -> Sequence[Card]:
    """The encoders, from the file that ``python -m zoo_segmentation_models.index`` writes, and whole models.

    Example:
        >>> {card.name: card.tags for card in cards()}["resnet18"]
        ('imagenet', 'ssl', 'swsl')
    """
    whole = [_whole(decoder, encoder) for decoder in _DECODERS for encoder in _ENCODERS]
    return [*read_cards(files("zoo_segmentation_models").joinpath("catalog.jsonl")), *whole]


def _whole(decoder: str, encoder: str) -> Card:
    return Card(
        family="segmentation_models",
        name=f"{decoder}-{encoder}",
        build="zoo_segmentation_models.anatomy:whole",
        task="segmentation",
        input_size=(3, 256, 256),
        num_classes=1,
        options={"arch": decoder, "encoder_name": encoder},
    )
