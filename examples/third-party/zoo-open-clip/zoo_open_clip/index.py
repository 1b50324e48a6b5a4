"""Write the catalogue from the installed library: ``python -m zoo_open_clip.index``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, write_cards
from zoo_open_clip.tower import ImageTower

_TEXT = ("cls_emb*", "logit_*", "ln_final.*", "positional_embedding", "text*", "token_embedding.*", "transformer.*")
"""The other half of a file."""
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def cards() -> list[Card]:
    """A card for the image tower of each model of the installed library."""
    return [_card(name) for name in open_clip.list_models()]


def _card(name: str) -> Card:
    with torch.device("meta"):
        tower = ImageTower(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    weights = tuple(_weights(tag, get_pretrained_cfg(name, tag), tower.image_size) for tag in tags)
    return Card(
        family="open_clip",
        name=name,
        build="zoo_open_clip.tower:ImageTower",
        task="embedding",
        input_size=(3, tower.image_size, tower.image_size),
        num_classes=0,
        options={"name": name},
        weights=weights,
        default=weights[0].tag if weights else None,
        parameters=sum(parameter.numel() for parameter in tower.parameters()),
    )


def _weights(tag: str, config: dict[str, Any], side: int) -> Weights:
    owner, name, *file = config["hf_hub"].strip("/").split("/")
    squash = config["resize_mode"] == "squash"
    return Weights(
        tag=tag,
        urls=tuple(f"https://huggingface.co/{owner}/{name}/resolve/main/{each}" for each in file or _FILES),
        preprocessing=Preprocessing(
            crop=(side, side),
            resize=(side, side) if squash else (side,),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        ),
        licenses=Licenses(code="mit"),
        options={"quick_gelu": True} if config.get("quick_gelu") else {},
        ignore=_TEXT,
        docs=f"https://huggingface.co/{owner}/{name}",
    )


if __name__ == "__main__":
    write_cards(Path(__file__).with_name("catalog.jsonl"), cards())
