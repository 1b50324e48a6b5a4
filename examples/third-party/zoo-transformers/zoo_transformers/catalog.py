"""The cards of this family: each is a configuration and a repository of the hub. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

_HALF = (0.5, 0.5, 0.5)
_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
_CROP = Preprocessing(interpolation="bicubic")
_WHOLE = Preprocessing(resize=(224, 224))


def cards() -> list[Card]:
    """Every model of this family, smallest first.

    Example:
        >>> [card.id for card in cards()][0]
        'transformers/deit-tiny-patch16-224'
    """
    with_teacher = {**_TINY, "architectures": ["DeiTForImageClassificationWithTeacher"]}
    halved = Preprocessing(resize=(224, 224), mean=_HALF, std=_HALF)
    return [
        _card("facebook/deit-tiny-patch16-224", "vit", 5_717_416, _TINY, _CROP),
        _card("facebook/deit-tiny-distilled-patch16-224", "deit", 5_910_800, with_teacher, _CROP),
        _card("microsoft/swin-tiny-patch4-window7-224", "swin", 28_288_354, {}, _WHOLE),
        _card("facebook/convnext-tiny-224", "convnext", 28_589_128, {}, _CROP),
        _card("google/vit-base-patch16-224", "vit", 86_567_656, {}, halved),
    ]


def _card(repo: str, kind: str, parameters: int, config: Mapping[str, object], preprocessing: Preprocessing) -> Card:
    weights = Weights(
        tag="imagenet-1k",
        urls=(f"https://huggingface.co/{repo}/resolve/main/model.safetensors",),
        num_classes=1000,
        preprocessing=preprocessing,
        licenses=Licenses(code="apache-2.0", weights="apache-2.0"),
        convert=None if kind == "convnext" else "zoo_transformers.checkpoints:convert",
        docs=f"https://huggingface.co/{repo}",
    )
    return Card(
        family="transformers",
        name=repo.partition("/")[2],
        build="zoo_transformers.anatomy:classifier",
        options={"kind": kind, "num_labels": 1000, **config},
        weights=(weights,),
        default=weights.tag,
        parameters=parameters,
    )
