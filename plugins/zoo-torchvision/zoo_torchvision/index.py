"""Write the catalogue from the installed torchvision: ``python -m zoo_torchvision.index``.

Everything comes from the library's own weights entries; what those do not say, and the library's constructors do in
code, is in :mod:`zoo_torchvision.weights_options`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torchvision
from torchvision import models

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, write_cards
from zoo_torchvision import weights_options

_PACKAGE = Path(__file__).parent
_DOCS = "https://docs.pytorch.org/vision/stable/models/generated/{}.html"
_DIGEST = re.compile(r"[-_]([0-9a-f]{8,})\.pth$")
_CLIP_LENGTH = re.compile(r"clip_len=(\d+)")

_GROUPS = (
    (models, "classification"),
    (models.quantization, "classification"),
    (models.segmentation, "segmentation"),
    (models.detection, "detection"),
    (models.video, "video"),
    (models.optical_flow, "optical_flow"),
)

_BUILDERS = {"zoo_torchvision.build_detectors": ("detection",), "zoo_torchvision.build_quantizable": ("quantized_",)}
"""Our own builders, for tasks, and for names that begin so; each is given the name of the model."""

_LABELS = {400: "kinetics_400", 91: "coco", 21: "voc", 2: "coco_person"}
"""The text file for a list of that many class names."""

_CATEGORIES = {
    1000: "imagenet_1k",  # which other families share
    **{count: f"zoo_torchvision.categories:{name}" for count, name in _LABELS.items()},
}

_LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "cc-by-nc-4.0"}


def cards() -> list[Card]:
    """Index the installed torchvision: a card for every model."""
    return [_card(name, task) for module, task in _GROUPS for name in models.list_models(module=module)]


def version() -> str:
    """The version of the installed torchvision, which is indexed, without the name of its build."""
    return str(torchvision.__version__).partition("+")[0]


def labels() -> dict[str, tuple[str, ...]]:
    """Index the lists of class names that torchvision's weights entries refer to, by the name of the file of each.

    Raises:
        ValueError: Two data sets have as many classes as each other, so that a count no longer tells them apart.
    """
    result: dict[str, tuple[str, ...]] = {}
    for name, names in _all_names():
        if result.setdefault(name, names) != names:
            msg = f"two lists of {len(names)} names would be written to {name}.txt"
            raise ValueError(msg)
    return result


def main() -> None:
    """Index torchvision to ``catalog.jsonl``, ``catalog.version`` and the lists of names beside this module."""
    write_cards(_PACKAGE / "catalog.jsonl", cards())
    (_PACKAGE / "catalog.version").write_text(f"{version()}\n", encoding="utf-8")
    for name, names in labels().items():
        (_PACKAGE / "labels" / f"{name}.txt").write_text("".join(f"{item}\n" for item in names), encoding="utf-8")


def _all_names() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every list of class names of torchvision's weights to index, with the name of its file."""
    for name in models.list_models():
        for entry in models.get_model_weights(name):
            classes = entry.meta.get("categories") or ()
            if len(classes) in _LABELS:
                yield _LABELS[len(classes)], tuple(classes)
            if keypoints := entry.meta.get("keypoint_names"):
                yield "coco_keypoints", tuple(keypoints)


def _card(name: str, task: str) -> Card:
    """Index one model of torchvision: its card."""
    builder = models.get_model_builder(name)
    entries = models.get_model_weights(name)
    kind = builder.__annotations__["return"].__name__
    weights = tuple(_weights(entry, builder, kind) for entry in entries)
    by_name = next((module for module, names in _BUILDERS.items() if task in names or name.startswith(names)), None)
    return Card(
        family="torchvision",
        name=name,
        build=f"{by_name}:build" if by_name else f"{builder.__module__}:{builder.__name__}",
        task="keypoints" if kind == "KeypointRCNN" else task,
        input_size=(3, *_input_size(name, task, entries, weights)),
        num_classes=len(entries.DEFAULT.meta.get("categories") or ()),
        options={**({"name": name} if by_name else {}), **weights_options.model_options(kind, task)},
        weights=weights,
        default=entries.DEFAULT.name,
        parameters=entries.DEFAULT.meta["num_params"],
    )


def _input_size(name: str, task: str, entries: Any, weights: tuple[Weights, ...]) -> tuple[int, ...]:
    """The size to index as a torchvision model's input; a video has its length before height and width."""
    if name in weights_options.INPUT_SIDE:
        return (weights_options.INPUT_SIDE[name],) * 2
    # An entry with an image size of its own says nothing about the model that is built without it.
    usual = [item for item in weights if "image_size" not in item.options] or list(weights)
    preset = next((item for item in usual if item.tag == entries.DEFAULT.name), usual[0]).preprocessing
    if preset.crop is None:
        return tuple(preset.resize) * 2 or tuple(entries.DEFAULT.meta["min_size"])
    length = _CLIP_LENGTH.search(entries.DEFAULT.meta["_docs"]) if task == "video" else None
    return (*((int(length[1]),) if length else ()), *preset.crop)


def _weights(entry: Any, builder: Callable[..., Any], kind: str) -> Weights:
    """Index one member of torchvision's weights enums: its weights entry."""
    names = entry.meta.get("categories") or ()
    digest = _DIGEST.search(entry.url)
    return Weights(
        tag=entry.name,
        urls=(entry.url,),
        sha256=digest[1] if digest else "",
        num_classes=len(names),
        categories=_CATEGORIES[len(names)] if names else (),
        preprocessing=_preprocessing(entry.transforms()),
        licenses=Licenses(code="bsd-3-clause", weights=_LICENSES.get(entry.meta.get("license", ""), "unknown")),
        metrics=_metrics(entry.meta["_metrics"]),
        options=weights_options.file_options(entry, kind),
        convert=weights_options.FILE_CONVERT.get(kind),
        ignore=weights_options.file_ignore(kind),
        docs=_DOCS.format(f"{builder.__module__.rpartition('.')[0]}.{builder.__name__}"),
    )


def _preprocessing(preset: Any) -> Preprocessing:
    """Index one of torchvision's presets for images: how it prepares them."""
    kind = type(preset).__name__
    if kind in weights_options.FIXED_PREPROCESSING:
        return weights_options.FIXED_PREPROCESSING[kind]
    return Preprocessing(
        crop=_pair(preset.crop_size) if hasattr(preset, "crop_size") else None,
        resize=tuple(preset.resize_size),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        # The preset for videos has no such attribute: its forward says False.
        antialias=getattr(preset, "antialias", False),
    )


def _pair(sides: list[int]) -> tuple[int, int]:
    """Height and width to index, of a preset of torchvision that may have one side for both."""
    return (sides[0], sides[-1])


def _metrics(published: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics to index, as torchvision publishes them by data set, without those that were not measured."""
    flat = {f"{data} {name}": value for data, figures in published.items() for name, value in figures.items()}
    # vgg16's features were never measured as a classifier, and say so with a NaN.
    return {name: value for name, value in flat.items() if not math.isnan(value)}


if __name__ == "__main__":
    main()
