"""Write the catalogue from the installed library: ``python -m zoo_segmentation_models.index``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segmentation_models_pytorch.encoders import encoders, get_encoder

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, write_cards

_HEADS = ("_fc.*", "classifier.*", "fc.*", "head.*", "last_linear.*", "linear.*")
"""What encoders leave out of a file: the head of the classifier that they were trained as."""
_HALF = Preprocessing(crop=None, resize=(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_PREPROCESSING = {
    "DPNEncoder": replace(_HALF, mean=(124 / 255, 117 / 255, 104 / 255), std=(1 / (0.0167 * 255),) * 3),
    "EfficientNetLiteEncoder": _HALF,
    "InceptionResNetV2Encoder": _HALF,
    "InceptionV4Encoder": _HALF,
    "XceptionEncoder": _HALF,
    "advprop": _HALF,
}
"""What images go through, by encoder or tag, where it is not what torchvision does."""
_CODE = {"MixVisionTransformerEncoder": "nvidia-source-code-license", "MobileOne": "mobileone-license"}
"""The licence of the code by encoder, where its file says another one than that of the library."""


def cards() -> list[Card]:
    """A card for every encoder of the installed library."""
    return [_card(name, entry) for name, entry in encoders.items()]


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
    usual = Preprocessing(crop=None, resize=())
    return Weights(
        tag=tag,
        urls=(f"https://huggingface.co/{repo_id}/resolve/{revision}/model.safetensors",),
        preprocessing=_PREPROCESSING.get(tag) or _PREPROCESSING.get(encoder, usual),
        licenses=Licenses(code=_CODE.get(encoder, "mit")),
        convert="zoo_segmentation_models.anatomy:renamed" if encoder == "DenseNetEncoder" else None,
        ignore=_HEADS,
        docs=f"https://huggingface.co/{repo_id}",
    )


if __name__ == "__main__":
    write_cards(Path(__file__).with_name("catalog.jsonl"), cards())
