"""The checks of what an anatomy says: that the parts are there, and are what it says they are."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch

from zoo_core.build import get
from zoo_core.errors import NotSupported, close_matches, did_you_mean
from zoo_core.surgery.knowledge import anatomy_of
from zoo_core.surgery.stem import stem_layers
from zoo_core.testing.measure import channels_and_sides, inputs_of, stage_maps
from zoo_core.testing.running import layers_in_order, scores_of
from zoo_core.testing.specimen import NonConformance, NotChecked, example, require, specimen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from zoo_core.card import Card
    from zoo_core.parts import Anatomy, Head, Stage

_GROWTH = 128


def check_builds(card: Card) -> None:
    """It builds untrained and without a network, with the parameters and the classes that the card tells of."""
    model = specimen(card)
    counts = {_parameters(model)}
    if card.parameters not in (None, *counts) and card.default:
        # libraries publish the number for the model that the weights are for, which may be of another size
        counts.add(_parameters(get(card.id, weights=None, options=card.find().options, device="meta")))
    found = " or ".join(f"{count:,}" for count in sorted(counts))
    require(
        card.parameters in (None, *counts),
        f"{card.id}: it has {found} parameters, not the {card.parameters} of its card",
    )
    main = anatomy_of(model).main
    if main is None:
        return
    classes = f"{card.id}: the card says {card.num_classes} classes"
    require(main.num_classes == card.num_classes, f"{classes}, and head site {main.path!r} gives {main.num_classes}")
    try:
        x = example(card)
    except NotChecked:
        return
    with torch.no_grad():
        given = tuple(scores_of(model, x).shape)
    right = given[:2] == (2, card.num_classes) or (card.num_classes == 0 and given[:1] == (2,))
    require(right, f"{classes}, and two pictures give scores of the shape {given}")


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_paths(card: Card) -> None:
    """Every path of the anatomy is a module of the model, and every attribute of a head site is there."""
    model = specimen(card)
    anatomy = anatomy_of(model)
    known = dict(model.named_modules())
    named = [("head site", head.path) for head in anatomy.heads]
    named += [("stem", path) for path in anatomy.stem]
    named += [(f"stage {stage.name}", path) for stage in anatomy.stages for path in stage.modules]
    named += [("keypoints", anatomy.keypoints)] if anatomy.keypoints else []
    for what, path in named:
        if path not in known:
            hint = f"print({type(model).__name__}) shows the paths"
            nearest = did_you_mean(close_matches(path, known, limit=1), hint)
            raise NonConformance(f"{card.id}: {what} {path!r}: no such module; {nearest}")
    for head in anatomy.heads:
        _check_attributes(card, model, head)


def _check_attributes(card: Card, model: nn.Module, head: Head) -> None:
    for path in head.attributes:
        label = f"{card.id}: head site {head.path!r}: attribute {path!r}"
        *owners, name = path.split(".")
        try:
            owner: object = reduce(getattr, owners, model)
            value = getattr(owner, name)
        except AttributeError as error:
            nearest = did_you_mean(close_matches(name, vars(model), limit=1), "it is a path from the model")
            require(condition=False, message=f"{label} is not there: {error}; {nearest}")
        else:
            require(value == head.num_classes, f"{label} is {value!r}, and the site gives {head.num_classes} classes")


def check_stem(card: Card) -> None:
    """The stem is the layers that see the picture first, and all of those."""
    model, x = specimen(card), example(card)
    stem = stem_layers(model)
    order = layers_in_order(model, x)
    for path in stem:
        require(path in order, f"{card.id}: stem {path!r} is never called")
    first = next(iter(order))
    require(first in stem, f"{card.id}: stem {', '.join(stem)} does not come first: {first!r} runs before it")
    beside = [path for path, sees_picture in order.items() if sees_picture and path not in stem]
    require(not beside, f"{card.id}: {', '.join(beside)} is given the picture too, and is not in the stem")


def check_in_features(card: Card) -> None:
    """The main head site is given as many features as the anatomy says, measured on a forward pass."""
    model = specimen(card)
    main = main_of(card, model)
    given = [x.shape for x in inputs_of(model, main.path, example(card))]
    require(bool(given), f"{card.id}: head site {main.path!r} is never called in eval mode")
    size = given[0][1] if main.kind.startswith("conv") else given[0][-1]
    require(size == main.in_features, f"{card.id}: {main.path!r} is given {size} features, not {main.in_features}")


def main_of(card: Card, model: nn.Module) -> Head:
    """The main head site.

    Raises:
        NotSupported: There is none, for a reason that the anatomy gives.
        NonConformance: It gives none.
    """
    anatomy = anatomy_of(model)
    if anatomy.main is not None:
        return anatomy.main
    require(not anatomy.heads, f"{card.id}: none of its head sites has the role 'main'")
    require(bool(anatomy.headless), f"{card.id}: no head sites, and Anatomy.headless does not say why")
    raise NotSupported(f"{card.id} has no head", cause=anatomy.headless)


def check_stages(card: Card) -> None:
    """The stages run in their order and do not overlap; channels and strides are true, measured on forward passes."""
    model, x = specimen(card), example(card, batch=1)
    anatomy = anatomy_of(model)
    _check_apart(card, anatomy.stages)
    maps = stage_maps(model, x)
    wider = stage_maps(model, torch.cat([x[..., :1].expand(*x.shape[:-1], _GROWTH), x], dim=-1))
    for stage in anatomy.stages:
        require(stage.name in maps, f"{card.id}: stage {stage.name}: {stage.output!r} is never called")
        _check_stage(card, anatomy, stage, x.shape[-1], [found[stage.name].shape for found in (maps, wider) if found])
    ran, listed = list(maps), [stage.name for stage in anatomy.stages]
    require(ran == listed, f"{card.id}: the stages run in the order {', '.join(ran)}, and not {', '.join(listed)}")


def _check_apart(card: Card, stages: Sequence[Stage]) -> None:
    """No module belongs to two stages."""
    owner: dict[str, str] = {}
    for stage in stages:
        for path in stage.modules:
            for other, name in owner.items():
                within = path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
                require(
                    not within, f"{card.id}: stages {name} and {stage.name} overlap: {other!r} and {path!r} are in both"
                )
            owner[path] = stage.name


def _check_stage(card: Card, anatomy: Anatomy, stage: Stage, pixels: int, shapes: list[torch.Size]) -> None:
    label = f"{card.id}: stage {stage.name}"
    channels, sides = channels_and_sides(anatomy.layout, shapes[0])
    require(channels == stage.channels, f"{label} has {channels} channels, not {stage.channels}")
    if not sides:
        return
    steps = sides[-1]
    if len(shapes) > 1:  # what a wider picture adds is free of what padding does at the border
        pixels, steps = _GROWTH, channels_and_sides(anatomy.layout, shapes[1])[1][-1] - steps
        right = abs(pixels / stage.stride - steps) <= 1
    else:  # a last step that fits in part is made or left out
        right = abs(pixels / stage.stride - steps) < 1
    require(right, f"{label} makes {steps} steps of {pixels} pixels, so its stride is not {stage.stride}")
