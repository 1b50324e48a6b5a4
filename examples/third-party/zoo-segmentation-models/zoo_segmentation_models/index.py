"""Write the catalogue from the installed library: ``python -m zoo_segmentation_models.index``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segmentation_models_pytorch.encoders import encoders, get_encoder

from zoo_core import Card, Licenses, Preprocessing, Weights, write_cards

_HEADS = {
    "EfficientNetEncoder": "_fc.*",
    "MobileNetV2Encoder": "classifier.*",
    "MobileOne": "linear.*",
    "ResNetEncoder": "fc.*",
    "SENetEncoder": "last_linear.*",
    "VGGEncoder": "classifier.*",
}
"""The encoders in this family, and what each leaves out of a file: the head of the classifier it was trained as."""
_HALF = (0.5, 0.5, 0.5)


def cards() -> list[Card]:
    """A card for every encoder of the installed library whose feature maps are those of modules."""
    return [_card(name, entry) for name, entry in encoders.items() if entry["encoder"].__name__ in _HEADS]


def _card(name: str, entry: dict[str, Any]) -> Card:
    model = get_encoder(name, weights=None)
    weights = tuple(
        _weights(tag, entry["encoder"].__name__, **settings) for tag, settings in entry["pretrained_settings"].items()
    )
    return Card(
        family="segmentation_models",
        name=name,
        build="segmentation_models_pytorch.encoders:get_encoder",
        task="encoder",
        num_classes=0,
        options={"name": name},
        weights=weights,
        default=weights[0].tag,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _weights(tag: str, encoder: str, repo_id: str, revision: str) -> Weights:
    plain = Preprocessing(crop=None, resize=())
    at_half = replace(plain, mean=_HALF, std=_HALF)
    return Weights(
        tag=tag,
        urls=(f"https://huggingface.co/{repo_id}/resolve/{revision}/model.safetensors",),
        preprocessing=at_half if tag == "advprop" else plain,
        licenses=Licenses(code="mit"),
        ignore=(_HEADS[encoder],),
        docs=f"https://huggingface.co/{repo_id}",
    )


if __name__ == "__main__":
    write_cards(Path(__file__).with_name("catalog.jsonl"), cards())
