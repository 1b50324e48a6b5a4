"""Write the catalogue from the installed pretrainedmodels: ``python -m zoo_pretrainedmodels.index``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, write_cards
from zoo_pretrainedmodels.build import build
from zoo_pretrainedmodels.library import library

_PACKAGE = Path(__file__).parent
_DIGEST = re.compile(r"-([0-9a-f]{8,})\.pth$")
_SCALE = 0.875  # what the library's evaluation script takes where a model names no other

_RENAMED = ("alexnet", "densenet", "inceptionv3", "resnet", "squeezenet", "vgg", "xception")
"""What the names of models begin with whose files have names of tensors that the models have not."""

_WITH_BACKGROUND = 1001
"""Files of four models have this many classes, whichever tag they are published under."""

_METRICS: Mapping[str, tuple[float, float]] = {
    # Accuracy of the best and of the best five guesses, from the table in the library's README.
    "fbresnet152": (77.386, 93.594),
    "bninception": (73.524, 91.562),
    "resnext101_32x4d": (78.188, 93.886),
    "resnext101_64x4d": (78.956, 94.252),
    "inceptionv4": (80.062, 94.926),
    "inceptionresnetv2": (80.17, 95.234),
    "alexnet": (56.432, 79.194),
    "densenet121": (74.646, 92.136),
    "densenet169": (76.026, 92.992),
    "densenet201": (77.152, 93.548),
    "densenet161": (77.56, 93.798),
    "resnet18": (70.142, 89.274),
    "resnet34": (73.554, 91.456),
    "resnet50": (76.002, 92.98),
    "resnet101": (77.438, 93.672),
    "resnet152": (78.428, 94.11),
    "inceptionv3": (77.294, 93.454),
    "squeezenet1_0": (58.108, 80.428),
    "squeezenet1_1": (58.25, 80.8),
    "vgg11": (68.97, 88.746),
    "vgg11_bn": (70.452, 89.818),
    "vgg13": (69.662, 89.264),
    "vgg13_bn": (71.508, 90.494),
    "vgg16": (71.636, 90.354),
    "vgg16_bn": (73.518, 91.608),
    "vgg19_bn": (74.266, 92.066),
    "vgg19": (72.08, 90.822),
    "nasnetamobile": (74.08, 91.74),
    "nasnetalarge": (82.566, 96.086),
    "dpn68": (75.868, 92.774),
    "dpn68b": (77.034, 93.59),
    "dpn92": (79.4, 94.62),
    "dpn98": (79.224, 94.488),
    "dpn131": (79.432, 94.574),
    "dpn107": (79.746, 94.684),
    "xception": (78.888, 94.292),
    "senet154": (81.304, 95.498),
    "se_resnet50": (77.636, 93.752),
    "se_resnet101": (78.396, 94.258),
    "se_resnet152": (78.658, 94.374),
    "se_resnext50_32x4d": (79.076, 94.434),
    "se_resnext101_32x4d": (80.236, 95.028),
    "cafferesnet101": (76.2, 92.766),
    "pnasnet5large": (82.736, 95.992),
    "polynet": (81.002, 95.624),
}


def cards() -> list[Card]:
    """Index the installed pretrainedmodels: a card for every model."""
    return [_card(name, tags) for name, tags in library.pretrained_settings.items()]


def version() -> str:
    """The version of the installed pretrainedmodels, which is indexed."""
    return str(library.__version__)


def main() -> None:
    """Index pretrainedmodels to ``catalog.jsonl`` and ``catalog.version`` beside this module."""
    write_cards(_PACKAGE / "catalog.jsonl", cards())
    (_PACKAGE / "catalog.version").write_text(f"{version()}\n", encoding="utf-8")


def _card(name: str, tags: Mapping[str, Mapping[str, Any]]) -> Card:
    """Index one model of pretrainedmodels: its card."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(name).parameters())
    has_background = any(entry["num_classes"] == _WITH_BACKGROUND for entry in tags.values())
    return Card(
        family="pretrainedmodels",
        name=name,
        build="zoo_pretrainedmodels.build:build",
        input_size=tuple(next(iter(tags.values()))["input_size"]),
        options={"name": name},
        weights=tuple(_weights(name, tag, entry, drop=has_background) for tag, entry in tags.items()),
        default=next(iter(tags)),
        parameters=parameters,
    )


def _weights(name: str, tag: str, entry: Mapping[str, Any], *, drop: bool) -> Weights:
    """Index one tag of a model of pretrainedmodels: its weights entry."""
    digest = _DIGEST.search(entry["url"])
    top1, top5 = _METRICS[name]
    classes = entry["num_classes"]
    return Weights(
        tag=tag,
        urls=(entry["url"],),
        sha256=digest[1] if digest else "",
        num_classes=classes,
        categories=f"imagenet_1k{'_with_background' if classes == _WITH_BACKGROUND else ''}",
        preprocessing=_preprocessing(entry),
        licenses=Licenses(code="mit"),
        metrics={} if classes == _WITH_BACKGROUND else {"ImageNet-1K acc@1": top1, "ImageNet-1K acc@5": top5},
        options={"num_classes": classes} if classes == _WITH_BACKGROUND else {},
        ignore=("AuxLogits.*",) if name == "inceptionv3" else (),  # for those who build it without them
        convert=_convert(name, drop=drop and classes != _WITH_BACKGROUND),
        docs="https://github.com/Cadene/pretrained-models.pytorch",
    )


def _convert(name: str, *, drop: bool) -> str | None:
    """The function to index as what converts the files of a model of pretrainedmodels; None without one."""
    if drop:
        return "zoo_pretrainedmodels.checkpoints:without_background"
    # resnext is of the library's own making, and begins like none of these
    return "zoo_pretrainedmodels.checkpoints:renamed" if re.match(rf"({'|'.join(_RENAMED)})", name) else None


def _preprocessing(entry: Mapping[str, Any]) -> Preprocessing:
    """Index how a model of pretrainedmodels takes its images."""
    _, height, width = entry["input_size"]
    return Preprocessing(
        crop=(height, width),
        resize=(math.floor(max(entry["input_size"]) / entry.get("scale", _SCALE)),),
        mean=tuple(map(float, entry["mean"])),
        std=tuple(map(float, entry["std"])),
        value_range=float(max(entry["input_range"])),
        channel_order=entry["input_space"],
    )


if __name__ == "__main__":
    main()
