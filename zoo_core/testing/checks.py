"""The checks: plain functions of one card, from cheap to dear."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import torch

from zoo_core.errors import close_matches, did_you_mean
from zoo_core.surgery.freeze import freeze
from zoo_core.surgery.head import swap_head
from zoo_core.surgery.knowledge import anatomy_of
from zoo_core.surgery.split import split
from zoo_core.testing.measure import channels_and_sides, difference, inputs_of, inside, left_behind, stage_maps, tensors
from zoo_core.testing.specimen import example, require, specimen
from zoo_core.weights.transport.hub import looks_like_hub

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zoo_core.card import Card

_GROWTH = 128
_NUM_CLASSES = 9
_SCHEMES = ("https://", "http://", "file://", "package://", "s3://", "gs://")


def check_card(card: Card) -> None:
    """The weights entries are well formed: a known scheme, and a digest unless a hub declares it."""
    for weights in card.weights:
        label = f"{card.id}@{weights.tag}"
        for url in weights.urls:
            require(url.startswith(_SCHEMES), f"{label}: {url} has none of the schemes {', '.join(_SCHEMES)}")
        declared = all(looks_like_hub(url) for url in weights.urls)
        require(declared or weights.strength != "none", f"{label}: no digest at all, and no hub that declares one")
        require(
            not isinstance(weights.categories, tuple) or len(weights.class_names) in (0, weights.num_classes),
            f"{label}: {len(weights.class_names)} class names for {weights.num_classes} classes",
        )
    require(bool(card.default) == bool(card.weights), f"{card.id}: it has weights but no default, or the other way")


def check_paths(card: Card) -> None:
    """Every path of the anatomy is a module of the model."""
    model = specimen(card)
    anatomy = anatomy_of(model)
    known = dict(model.named_modules())
    named = [("head site", head.path) for head in anatomy.heads]
    named += [("stem", path) for path in anatomy.stem]
    named += [(f"stage {stage.name}", path) for stage in anatomy.stages for path in stage.modules]
    for what, path in named:
        nearest = did_you_mean(close_matches(path, known, limit=1), f"print({type(model).__name__}) shows the paths")
        require(path in known, f"{card.id}: {what} {path!r}: no such module; {nearest}")


def check_in_features(card: Card) -> None:
    """The main head site is given as many features as the anatomy says, measured on a forward pass."""
    model = specimen(card)
    main = anatomy_of(model).main
    if main is None:
        return
    given = [x.shape for x in inputs_of(model, main.path, example(card))]
    require(bool(given), f"{card.id}: head site {main.path!r} is never called in eval mode")
    size = given[0][1] if main.kind == "conv" else given[0][-1]
    require(size == main.in_features, f"{card.id}: {main.path!r} is given {size} features, not {main.in_features}")


def check_stages(card: Card) -> None:
    """The channels and strides of the stages are true, measured on forward passes."""
    model, x = specimen(card), example(card, batch=1)
    anatomy = anatomy_of(model)
    maps = stage_maps(model, x)
    larger = stage_maps(model, torch.cat([x[..., :1].expand(*x.shape[:-1], _GROWTH), x], dim=-1))
    for stage in anatomy.stages:
        channels, sides = channels_and_sides(anatomy.layout, maps[stage.name].shape)
        label = f"{card.id}: stage {stage.name}"
        require(channels == stage.channels, f"{label} has {channels} channels, not {stage.channels}")
        if not sides:
            continue
        pixels, steps, slack = x.shape[-1], sides[-1], 0
        if stage.name in larger:  # what a wider picture adds is free of what padding does at the border
            pixels, steps, slack = (
                _GROWTH,
                channels_and_sides(anatomy.layout, larger[stage.name].shape)[1][-1] - steps,
                1,
            )
        right = abs(pixels / stage.stride - steps) <= slack
        require(right, f"{label} makes {steps} steps of {pixels} pixels, so its stride is not {stage.stride}")


def check_split(card: Card) -> None:
    """``head(pool(features(x)))`` equals ``model(x)`` bit for bit in eval mode."""
    model, x = specimen(card), example(card)
    if anatomy_of(model).main is None:
        return
    backbone, head = split(model)
    with torch.no_grad():
        ours, theirs = head(backbone.pool(backbone.features(x))), anatomy_of(model).scores_in(model(x))
    require(torch.equal(ours, theirs), f"{card.id}: split and forward differ by up to {difference(ours, theirs)}")
    shared = {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}
    require(not shared, f"{card.id}: backbone and head have {len(shared)} parameters in common")


def check_swap(card: Card) -> None:
    """A swap to 9 classes changes head keys only, aux heads and repeated class counts included."""
    model = copy.deepcopy(specimen(card))
    sites = [head.path for head in anatomy_of(model).heads]
    if not sites:
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swap_head(model, _NUM_CLASSES, seed=0)
    for name, tensor in model.state_dict().items():
        if name not in before or tensor.shape != before[name].shape:
            require(inside(name, sites), f"{card.id}: the swap changed {name}, which is not under {', '.join(sites)}")
        elif not inside(name, sites):
            require(torch.equal(tensor, before[name]), f"{card.id}: the swap changed the values of {name}")
    left = [name for name in left_behind(model, before) if name not in sites]
    require(not left, f"{card.id}: still {card.num_classes}-way after the swap: {', '.join(left)}")
    with torch.no_grad():
        scores = anatomy_of(model).scores_in(model(example(card)))
    require(tuple(scores.shape) == (2, _NUM_CLASSES), f"{card.id}: {tuple(scores.shape)} scores after the swap")


def check_freeze(card: Card) -> None:
    """With a frozen backbone gradients reach the head alone, and no running statistic moves after ``train()``."""
    model = copy.deepcopy(specimen(card))
    sites = [head.path for head in anatomy_of(model).heads]
    if not sites:
        return
    freeze(model, "backbone").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    sum(tensor.float().sum() for tensor in tensors(model(example(card)))).backward()  # type: ignore[union-attr]
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    outside = [name for name in touched if not inside(name, sites)]
    require(not outside, f"{card.id}: gradients outside the head: {', '.join(outside[:5])}")
    require(bool(touched), f"{card.id}: no gradient reached the head")
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)]
    require(not moved, f"{card.id}: these buffers moved while frozen: {', '.join(moved[:5])}")


def check_twins(card: Card) -> None:
    """Copies by deepcopy and pickle keep the outputs, and what zoo knows."""
    model, x = specimen(card), example(card, batch=1)
    for how, copied in (("deepcopy", copy.deepcopy), ("pickle", _pickled)):
        twin = copied(model)
        with torch.no_grad():
            same = torch.equal(next(tensors(twin(x))), next(tensors(model(x))))
        require(same, f"{card.id}: other outputs after {how}")
        require(anatomy_of(twin).heads == anatomy_of(model).heads, f"{card.id}: another anatomy after {how}")
        del twin  # before the next one is made: the largest models have gigabytes


def _pickled(model: nn.Module) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    return copied


CHECKS: tuple[Callable[[Card], None], ...] = (
    check_card,
    check_paths,
    check_in_features,
    check_stages,
    check_split,
    check_swap,
    check_freeze,
    check_twins,
)
"""Every check, from cheap to dear."""
