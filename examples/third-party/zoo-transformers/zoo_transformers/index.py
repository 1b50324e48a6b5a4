"""Write the catalogue: ``python -m zoo_transformers.index [OWNER/REPO ...]``, with the repositories to add."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import model_info
from transformers import AutoConfig, AutoImageProcessor
from transformers.models.auto import modeling_auto

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, read_cards, write_cards
from zoo_transformers.models import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FILE = Path(__file__).with_name("catalog.jsonl")
_OF_NO_MODEL = {"architectures", "dtype", "id2label", "label2id", "model_type", "transformers_version"}
_FILES = ("model.safetensors", "pytorch_model.bin")
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_TASKS = {
    "classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "encoder": modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
}


def classes() -> Iterator[Card]:
    """A card for each class of the library that takes images, with its default configuration; others are named."""
    for task, names in _TASKS.items():
        for kind in dict.fromkeys(each for of in names.values() for each in ([of] if isinstance(of, str) else of)):
            try:
                yield _card(kind, kind, {"num_labels": 1000} if task == "classification" else {}, task)
            except Exception as error:  # noqa: BLE001 - whatever the library's constructors and models raise
                print(f"left out: {kind}: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)


def _card(name: str, kind: str, config: Mapping[str, Any], task: str, weights: tuple[Weights, ...] = ()) -> Card:
    """The card of a model that is built without values, and run on an image of its size."""
    settings: Any = getattr(transformers, kind).config_class
    lists = {
        key: [*value] for key, value in vars(settings()).items() if type(value) is tuple
    }  # as config.json has them
    options = {**lists, **config}
    with torch.device("meta"):
        model: Any = build(kind, **options).eval()
        vision = getattr(model.config, "vision_config", model.config)
        sides = getattr(vision, "image_size", None) or 224
        size = (getattr(vision, "num_channels", 3), *([sides, sides] if isinstance(sides, int) else sides))
        model(torch.zeros(1, *size))
    return Card(
        family="transformers",
        name=name,
        build="zoo_transformers.models:build",
        task=task,
        input_size=size,
        num_classes=model.config.num_labels if task == "classification" else 0,
        options={"kind": kind, **options},
        weights=weights,
        default=weights[0].tag if weights else None,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def repository(repo: str) -> Card:
    """The card of a repository of the hub, or of its folder here, from its configuration and its processor."""
    is_folder = Path(repo).is_dir()
    commit = None if is_folder else model_info(repo).sha  # what is read is of it, and a branch moves on
    if not is_folder and not commit:
        msg = f"{repo}: the hub does not say its commit, and urls of a branch would change what they give"
        raise ValueError(msg)
    config: Any = AutoConfig.from_pretrained(repo, revision=commit)
    names = tuple(config.id2label.values())
    folder = Path(repo).resolve().as_uri() if is_folder else f"https://huggingface.co/{repo}/resolve/{commit}"
    options = {key: value for key, value in config.to_diff_dict().items() if key not in _OF_NO_MODEL}
    weights = Weights(
        tag="hub",
        urls=tuple(f"{folder}/{file}" for file in _FILES),
        num_classes=len(names),
        categories=names,
        preprocessing=preprocessing(AutoImageProcessor.from_pretrained(repo, revision=commit)),
        licenses=Licenses(code="apache-2.0"),
        convert="zoo_transformers.models:convert",
        docs=None if is_folder else f"https://huggingface.co/{repo}",
    )
    options["num_labels"] = len(names)
    return _card(Path(repo).name, config.architectures[0], options, "classification", (weights,))


def preprocessing(processor: Any) -> Preprocessing:
    """What a processor of the library does to an image, as a card says it."""
    size, crop = dict(processor.size or {}), dict(processor.crop_size or {}) if processor.do_center_crop else {}
    side, cut = size.get("shortest_edge"), getattr(processor, "crop_pct", None)
    seen = (crop["height"], crop["width"]) if crop else None
    resize = (side,) if side else (size["height"], size["width"])
    if cut and side:  # the processors of ConvNeXt and PVT cut off a fraction
        seen, resize = (side, side), (int(side / cut),) if side < 384 else (side, side)  # noqa: PLR2004 - as they do
    plain = not processor.do_normalize
    return Preprocessing(
        crop=seen or (resize if len(resize) > 1 else None),
        resize=resize,
        interpolation=_FILTERS[int(processor.resample)],
        mean=(0.0, 0.0, 0.0) if plain else tuple(processor.image_mean),
        std=(1.0, 1.0, 1.0) if plain else tuple(processor.image_std),
    )


if __name__ == "__main__":
    kept = [card for card in read_cards(_FILE) if card.weights] if _FILE.exists() else []
    added = [repository(repo) for repo in sys.argv[1:]]
    named = {card.name: card for card in [*kept, *added, *classes()]}
    write_cards(_FILE, list(named.values()))
