"""The checks of what a card says of its weights: that it can be fetched, proven, understood, and loaded."""

from __future__ import annotations

import copy
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo_core.construct import construct
from zoo_core.errors import LoadMismatch
from zoo_core.surgery.knowledge import anatomy_of
from zoo_core.surgery.loading import load_state
from zoo_core.testing.measure import inside
from zoo_core.testing.specimen import NonConformance, by_shapes, require, specimen
from zoo_core.weights.transport.hub import looks_like_hub

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.card import Card, Licenses, Preprocessing, Weights

_SCHEMES = ("https://", "http://", "file://", "package://", "s3://", "gs://")
_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")


def check_card(card: Card) -> None:
    """The weights entries are well formed: scheme, digest unless a hub declares it, licences, preprocessing."""
    for weights in card.weights:
        label = f"{card.id}@{weights.tag}"
        for url in weights.urls:
            require(url.startswith(_SCHEMES), f"{label}: {url} has none of the schemes {', '.join(_SCHEMES)}")
        declared = all(looks_like_hub(url) for url in weights.files[0].urls)
        require(declared or weights.strength != "none", f"{label}: no digest at all, and no hub that declares one")
        require(
            not isinstance(weights.categories, tuple) or len(weights.class_names) in (0, weights.num_classes),
            f"{label}: {len(weights.class_names)} class names for {weights.num_classes} classes",
        )
        _check_licenses(label, weights.licenses)
        _check_preprocessing(label, weights.preprocessing, card.input_size[0])
    require(bool(card.default) == bool(card.weights), f"{card.id}: it has weights but no default, or the other way")


def _check_licenses(label: str, licenses: Licenses) -> None:
    for part, name in vars(licenses).items():
        right = isinstance(name, str) and name.strip() != "" and name == name.lower()
        require(right, f"{label}: the licence of its {part} is {name!r}; a lower-case SPDX name, or 'unknown'")


def _check_preprocessing(label: str, wanted: Preprocessing, channels: int) -> None:
    for name in ("mean", "std"):
        count = len(getattr(wanted, name))
        require(count == channels, f"{label}: {name} has {count} numbers for pictures of {channels} channels")
    require(all(number > 0 for number in wanted.std), f"{label}: std {wanted.std} has a number that is not positive")
    require(wanted.value_range > 0, f"{label}: value_range {wanted.value_range} is not positive")
    for name in ("crop", "resize"):
        sides = getattr(wanted, name) or ()
        require(all(side > 0 for side in sides), f"{label}: {name} {sides} has a side that is not positive")
    known = wanted.interpolation in _INTERPOLATIONS
    require(known, f"{label}: interpolation {wanted.interpolation!r} is none of {', '.join(_INTERPOLATIONS)}")


def check_state(card: Card) -> None:
    """What converts a file gives the names of the model, and the options of its weights build a model.

    No file is fetched: a state dict in the model's own layout goes through ``convert``, which has to leave it loadable.
    """
    seen: list[tuple[str | None, dict[str, object]]] = []
    for weights in card.weights:
        key = (weights.convert, dict(weights.options))
        if key in seen or key == (None, {}):
            continue
        seen.append(key)
        _check_entry(card, weights)


def _check_entry(card: Card, weights: Weights) -> None:
    label = f"{card.id}@{weights.tag}"
    model = _model_for(card, weights)
    layout = model.state_dict()
    if weights.convert is None or not all(isinstance(each, Tensor) for each in layout.values()):
        return  # what a quantised model keeps is no layout of a file that something could be converted from
    own = {name: tensor.clone() for name, tensor in layout.items()}
    state = _converted(label, weights.convert, dict(own), model)
    heads = [head.path for head in anatomy_of(model).heads]
    lost = [name for name in own if name not in state and inside(name, heads)]
    require(not lost, f"{label}: {weights.convert} loses {', '.join(lost)}")
    try:
        load_state(
            copy.deepcopy(model),
            state,
            ignore=weights.ignore,
            replaceable=heads,  # the file may have other classes than the model: a row more, for the background
            source=f"what {weights.convert} returns",
        )
    except LoadMismatch as error:
        raise NonConformance(f"{label}: {error.message}") from error


def _model_for(card: Card, weights: Weights) -> nn.Module:
    if not weights.options:
        return specimen(card)
    model = construct(card, {**card.options, **weights.options}, own=weights.options, values=not by_shapes(card))
    return model.to("meta") if by_shapes(card) else model


def _converted(label: str, convert: str, own: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    try:
        found: Any = resolve_name(convert)(own, model)
    except Exception as error:  # a plugin's own code: whatever it raises is the finding
        raise NonConformance(
            f"{label}: {convert} fails on a state dict in the model's own layout",
            got=f"{type(error).__name__}: {error}",
            hint="it may be given a file that needs no conversion, such as one the user saved",
        ) from error
    require(isinstance(found, dict), f"{label}: {convert} returns a {type(found).__name__}, not a state dict")
    return dict(found)
