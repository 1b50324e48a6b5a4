"""Write the catalogue from the installed torchvision: ``python -m zoo_torchvision.index``.

Everything comes from the library's own weights entries; what those do not say, and the library's constructors do in
code, is in the tables of this module, each row with its reason.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torchvision
from torchvision import models

from zoo_core import Card, Licenses, Preprocessing, Weights, write_cards

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGE = Path(__file__).parent
_DOCS = "https://docs.pytorch.org/vision/stable/models/generated/{}.html"
_DIGEST = re.compile(r"[-_]([0-9a-f]{8,})\.pth$")
_GROUPS = {"classification": models}
_LABELS = {1000: "imagenet_1k"}
"""The text file for a list of that many class names."""

_LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "cc-by-nc-4.0"}

_MODEL_OPTIONS: dict[str, Mapping[str, object]] = {
    # The library's default, said aloud: it warns when it has to choose for itself.
    "GoogLeNet": {"init_weights": True},
    "Inception3": {"init_weights": True},
}

_FILE_OPTIONS: dict[str, Mapping[str, object]] = {
    # What each constructor sets when it is given weights.
    "GoogLeNet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "Inception3": {"transform_input": True, "init_weights": False},
    "VGG": {"init_weights": False},
}

_FILE_IGNORE = {
    # The file has the auxiliary heads, untrained; the library loads them and takes them off again.
    "GoogLeNet": ("aux1.*", "aux2.*"),
}

_FILE_CONVERT = {
    "DenseNet": "zoo_torchvision.checkpoints:densenet",
    "VisionTransformer": "zoo_torchvision.checkpoints:vision_transformer",
}

_VIT_IMAGE_SIZE = 224


def cards() -> list[Card]:
    """A card for every model of the installed torchvision."""
    return [_card(name, task) for task, module in _GROUPS.items() for name in models.list_models(module=module)]


def version() -> str:
    """The version of the installed torchvision, without the name of its build."""
    return str(torchvision.__version__).partition("+")[0]


def labels() -> dict[str, tuple[str, ...]]:
    """The lists of class names that the weights entries hold, by the name of their file."""
    found: dict[str, tuple[str, ...]] = {}
    for module in _GROUPS.values():
        for name in models.list_models(module=module):
            for entry in models.get_model_weights(name):
                names = tuple(entry.meta.get("categories") or ())
                if names and found.setdefault(_LABELS[len(names)], names) != names:
                    msg = f"{name} {entry.name} has {len(names)} classes of its own"
                    raise ValueError(msg)
    return found


def main() -> None:
    """Write ``catalog.jsonl``, ``catalog.version`` and the lists of class names beside this module."""
    write_cards(_PACKAGE / "catalog.jsonl", cards())
    (_PACKAGE / "catalog.version").write_text(f"{version()}\n", encoding="utf-8")
    for name, names in labels().items():
        (_PACKAGE / "labels" / f"{name}.txt").write_text("".join(f"{item}\n" for item in names), encoding="utf-8")


def _card(name: str, task: str) -> Card:
    builder = models.get_model_builder(name)
    entries = models.get_model_weights(name)
    kind = builder.__annotations__["return"].__name__
    weights = tuple(_weights(entry, builder, kind) for entry in entries)
    # An entry with an image size of its own says nothing about the model that is built without it.
    usual = [item for item in weights if "image_size" not in item.options] or list(weights)
    default = next((item for item in usual if item.tag == entries.DEFAULT.name), usual[0])
    return Card(
        family="torchvision",
        name=name,
        build=f"{builder.__module__}:{builder.__name__}",
        task=task,
        input_size=(3, *default.preprocessing.crop),
        options=_MODEL_OPTIONS.get(kind, {}),
        weights=weights,
        default=entries.DEFAULT.name,
        parameters=entries.DEFAULT.meta["num_params"],
    )


def _weights(entry: Any, builder: Any, kind: str) -> Weights:  # noqa: ANN401 - torchvision ships no types
    names = entry.meta.get("categories") or ()
    digest = _DIGEST.search(entry.url)
    return Weights(
        tag=entry.name,
        urls=(entry.url,),
        sha256=digest[1] if digest else "",
        num_classes=len(names),
        categories=f"zoo_torchvision.categories:{_LABELS[len(names)]}" if names else (),
        preprocessing=_preprocessing(entry.transforms()),
        licenses=Licenses(code="bsd-3-clause", weights=_LICENSES.get(entry.meta.get("license", ""), "unknown")),
        metrics=_metrics(entry.meta["_metrics"]),
        options=_options(entry, kind),
        convert=_FILE_CONVERT.get(kind),
        ignore=_FILE_IGNORE.get(kind, ()),
        docs=_DOCS.format(f"{builder.__module__.rpartition('.')[0]}.{builder.__name__}"),
    )


def _options(entry: Any, kind: str) -> Mapping[str, object]:  # noqa: ANN401 - torchvision ships no types
    if kind == "VisionTransformer" and entry.meta["min_size"][0] != _VIT_IMAGE_SIZE:
        return {"image_size": entry.meta["min_size"][0]}
    return _FILE_OPTIONS.get(kind, {})


def _preprocessing(preset: Any) -> Preprocessing:  # noqa: ANN401 - torchvision ships no types
    (crop,) = preset.crop_size
    return Preprocessing(
        crop=(crop, crop),
        resize=tuple(preset.resize_size),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        antialias=preset.antialias,
    )


def _metrics(published: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    flat = {f"{data} {name}": value for data, figures in published.items() for name, value in figures.items()}
    # vgg16's features were never measured as a classifier, and say so with a NaN.
    return {name: value for name, value in flat.items() if not math.isnan(value)}


if __name__ == "__main__":
    main()
