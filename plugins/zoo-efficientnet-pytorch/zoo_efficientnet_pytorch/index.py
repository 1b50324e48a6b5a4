"""Write the catalogue from the installed efficientnet_pytorch: ``python -m zoo_efficientnet_pytorch.index``."""

from __future__ import annotations

import re
from pathlib import Path

import efficientnet_pytorch
import torch
from efficientnet_pytorch import VALID_MODELS, EfficientNet
from efficientnet_pytorch.utils import url_map, url_map_advprop

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, write_cards

_PACKAGE = Path(__file__).parent
_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth$")
_FILES = {"imagenet": url_map, "advprop": url_map_advprop}
"""Tag to the library's own table of files. The first that a model has is its default."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NORMALISATION = {
    "imagenet": (_IMAGENET_MEAN, _IMAGENET_STD),
    "advprop": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # 2x - 1, says the library's own evaluation script
}

_ACCURACY = {
    # The table in the library's README: its weights without adversarial training.
    "efficientnet-b0": 76.3,
    "efficientnet-b1": 78.8,
    "efficientnet-b2": 79.8,
    "efficientnet-b3": 81.1,
    "efficientnet-b4": 82.6,
    "efficientnet-b5": 83.3,
    "efficientnet-b6": 84.0,
    "efficientnet-b7": 84.4,
}


def cards() -> list[Card]:
    """Index the installed efficientnet_pytorch: a card for every model."""
    return [_card(name) for name in VALID_MODELS]


def main() -> None:
    """Index efficientnet_pytorch to ``catalog.jsonl`` and ``catalog.version`` beside this module."""
    write_cards(_PACKAGE / "catalog.jsonl", cards())
    (_PACKAGE / "catalog.version").write_text(f"{efficientnet_pytorch.__version__}\n", encoding="utf-8")


def _card(name: str) -> Card:
    """Index one EfficientNet: its card."""
    with torch.device("meta"):
        model = EfficientNet.from_name(name)
    weights = tuple(_weights(name, tag) for tag, urls in _FILES.items() if name in urls)
    return Card(
        family="efficientnet_pytorch",
        name=name,
        build="efficientnet_pytorch:EfficientNet.from_name",
        input_size=(3, *_size(name)),
        options={"model_name": name},
        weights=weights,
        default=weights[0].tag if weights else None,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _weights(name: str, tag: str) -> Weights:
    """Index one file of an EfficientNet: its weights entry."""
    url = _FILES[tag][name]
    digest = _DIGEST.search(url)
    mean, std = _NORMALISATION[tag]
    size = _size(name)
    return Weights(
        tag=tag,
        urls=(url,),
        sha256=digest[1] if digest else "",
        num_classes=1000,
        categories="imagenet_1k",
        preprocessing=Preprocessing(crop=size, resize=size[:1], interpolation="bicubic", mean=mean, std=std),
        licenses=Licenses(code="apache-2.0"),
        metrics={"ImageNet-1K acc@1": _ACCURACY[name]} if tag == "imagenet" else {},
        docs="https://github.com/lukemelas/EfficientNet-PyTorch",
    )


def _size(name: str) -> tuple[int, int]:
    """The height and width to index as those of an EfficientNet's images."""
    side = EfficientNet.get_image_size(name)
    return side, side


if __name__ == "__main__":
    main()
