"""Write the catalogue from the installed timm: ``python -m zoo_timm.index``.

Everything comes from the library's own registry: a pretrained configuration for each tag, and for each entrypoint what
it hands to the function that builds and loads (:mod:`zoo_timm.entrypoints`). Only accuracies are from its repository
(:mod:`zoo_timm.accuracies`).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

import timm
import torch

from zoo_core.plugin import Card, Licenses, Preprocessing, Weights, write_cards
from zoo_timm.accuracies import metrics_of
from zoo_timm.categories import LISTS
from zoo_timm.entrypoints import Loading, listening, loading_of
from zoo_timm.pruned import NAMES as PRUNED

_PACKAGE = Path(__file__).parent
_HUB = "https://huggingface.co"
_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")
"""As torch.hub reads it, but for ``-600e.pth.tar``, which counts epochs: a digest has at least eight digits."""

_SAFE = "model.safetensors"
_PICKLED = "pytorch_model.bin"
_ALL_SAFE = "timm/"
"""Whose repositories all hold the weights as safetensors; timm asks the others for a pickle when they have none."""

_FITS: dict[str, Literal["squash", "cover", "border"]] = {"center": "cover", "squash": "squash", "border": "border"}

_UNUSED = {
    # towers of SigLIP that pool by the mean, and not by the attention that was trained with them
    "siglip_gap": ("attn_pool.*",),
    "inception_v3": ("AuxLogits.*",),
    # projections that the paper's code made and never called
    "dla": ("*.project.*",),
}
"""Start of an architecture, or a part of it, to what timm drops from its files without a word."""

_UNTRAINED = {
    # self-supervised: the norm before the head came with it
    "fcmae": ("head.norm.*",),
    "msft_florence2": ("head.norm.*",),
}
"""Tag to what timm leaves as it was initialized, without a word."""


def cards() -> list[Card]:
    """Index the installed timm: a card for every architecture."""
    with listening():
        return [_card(name) for name in timm.list_models()]


def version() -> str:
    """The version of the installed timm, which is indexed."""
    return installed("timm")


def parameters(card: Card) -> int:
    """How many parameters the timm model of an indexed card has, counted on a model without memory."""
    with torch.device("meta"):
        model = timm.create_model(card.name)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Index timm to ``catalog.jsonl`` and ``catalog.version`` beside this module; counting parameters takes minutes."""
    counted = [replace(card, parameters=parameters(card)) for card in cards()]
    write_cards(_PACKAGE / "catalog.jsonl", counted)
    (_PACKAGE / "catalog.version").write_text(f"{version()}\n", encoding="utf-8")


def _card(name: str) -> Card:
    """Index one architecture of timm: its card."""
    default = _default_config(name)
    configurations = timm.models.get_arch_pretrained_cfgs(name).values()
    weights = tuple(_weights(name, each) for each in configurations if each.has_weights)
    return Card(
        family="timm",
        name=name,
        build="zoo_timm.pruned:create_model" if name in PRUNED else "timm:create_model",
        input_size=tuple(default.input_size),
        num_classes=default.num_classes,
        options={"model_name": name},
        weights=weights,
        default=default.tag if default.has_weights else next((item.tag for item in weights), None),
    )


def _default_config(name: str) -> Any:
    """Configuration of timm to index as default: the first, as timm takes it, or one with nothing said."""
    return timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


def _weights(name: str, configuration: Any) -> Weights:
    """Index one configuration of timm's weights: its weights entry."""
    tag = configuration.tag
    loading = loading_of(name, tag)
    ignore, absent = _unused(name, loading), _UNTRAINED.get(tag, ())
    if not (loading.strict or ignore or absent):
        warnings.warn(f"it is not known what timm drops or leaves in {name}.{tag}: zoo loads it whole", stacklevel=3)
    urls = tuple(_urls(configuration))
    digests = {url.rpartition("/")[2]: _digest(url) for url in urls}
    return Weights(
        tag=tag,
        urls=urls,
        sha256=_digest(urls[0]),
        digests=dict(list(digests.items())[1:]),
        num_classes=configuration.num_classes,
        categories=_categories(configuration.num_classes),
        preprocessing=_preprocessing(configuration),
        licenses=Licenses(code="apache-2.0", weights=(configuration.license or "unknown").lower()),
        metrics=metrics_of(f"{name}.{tag}", configuration.input_size[-1]),
        options={"pretrained_cfg": tag},
        convert="zoo_timm.checkpoints:convert" if loading.filter or configuration.custom_load else None,
        whole=loading.filter is not None,
        ignore=ignore,
        absent=absent,
        docs=f"{_HUB}/{configuration.hf_hub_id}" if configuration.hf_hub_id else configuration.origin_url,
    )


def _urls(configuration: Any) -> Iterator[str]:
    """The URLs to index, the hub first, as timm does: its digests are whole, its files run no code and are mapped."""
    if repository := configuration.hf_hub_id:
        named = configuration.hf_hub_filename
        pickled = () if repository.startswith(_ALL_SAFE) else (_PICKLED,)
        for file in (named,) if named else (_SAFE, *pickled):
            yield f"{_HUB}/{repository}/resolve/main/{file}"
    if configuration.url:
        yield configuration.url


def _digest(url: str) -> str:
    """The digest to index, which timm has in the name of a file; empty without one."""
    result = _DIGEST.search(url.rpartition("/")[2])
    return result[1] if result else ""


def _categories(count: int) -> str | tuple[str, ...]:
    """The class names to index for a number of classes, where timm has them."""
    return f"zoo_timm.categories:{LISTS[count]}" if count in LISTS else ()


def _unused(name: str, loading: Loading) -> tuple[str, ...]:
    """Patterns of tensors to index as unused: timm drops them from the files of this architecture."""
    if loading.strict:
        return ()
    return next((patterns for part, patterns in _UNUSED.items() if part in name), ())


def _preprocessing(configuration: Any) -> Preprocessing:
    """Index how a configuration of timm's prepares images."""
    size = tuple(configuration.input_size[1:])
    resize = tuple(math.floor(side / configuration.crop_pct) for side in size)
    fit = _FITS[configuration.crop_mode]
    by_shorter_side = fit == "cover" and size[0] == size[1]
    return Preprocessing(
        crop=size,
        resize=resize[:1] if by_shorter_side else resize,
        fit="squash" if by_shorter_side else fit,
        interpolation=configuration.interpolation,
        mean=tuple(configuration.mean),
        std=tuple(configuration.std),
    )


if __name__ == "__main__":
    main()
