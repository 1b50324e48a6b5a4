"""The checks of what an anatomy says: that the parts are there, and are what it says they are."""

from __future__ import annotations

from typing import cast

from torch import nn

from zoo_core.contract.anatomy import Head
from zoo_core.contract.card import Card
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.findings import NonConformance, require
from zoo_core.testing.under_test import Call, calls_of, inputs_of, main_of, model_under_test
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.attributes import get_attribute
from zoo_core.utils.duplicate import duplicate


def check_paths(card: Card) -> None:
    """Every path of the anatomy is a module of the model, and every attribute of a head site is there."""
    model = model_under_test(card)
    anatomy = anatomy_of(model)
    known = dict(model.named_modules())
    named = [("head site", head.path) for head in anatomy.heads]
    named += [("stem", path) for path in anatomy.stem]
    named += [(f"stage {stage.name}", path) for stage in anatomy.stages for path in stage.modules]
    named += [("keypoints", anatomy.keypoints)] if anatomy.keypoints else []
    parameters = dict(model.named_parameters())
    for what, path in named:
        require(
            path not in parameters,
            f"{card.id}: {what} {path!r} is a parameter, and no module: a head that no module applies cannot be "
            "replaced; leave heads=() and say why in Anatomy.headless",
        )
        if path not in known:
            hint = f"print({type(model).__name__}) shows the paths"
            nearest = did_you_mean(close_matches(path, known, limit=1), hint)
            raise NonConformance(f"{card.id}: {what} {path!r}: no such module; {nearest}")
    require(
        not (anatomy.heads and anatomy.headless),
        f"{card.id}: it has head sites, and Anatomy.headless says why it has none: {anatomy.headless}",
    )
    require(
        anatomy.indivisible is None or not (anatomy.features or anatomy.pool or anatomy.classify),
        f"{card.id}: Anatomy.indivisible says why forward does not split, and features, pool or classify split it",
    )
    paths = [head.path for head in anatomy.heads]
    require(len({*paths}) == len(paths), f"{card.id}: {', '.join(paths)}: a head site is there twice")
    for head in anatomy.heads:
        _check_attributes(card, model, head)
        _check_layer(card, model, head)
    for name in ("channel_attributes", "per_channel"):
        for path in getattr(anatomy, name):
            _attribute(model, path, f"{card.id}: Anatomy.{name} has {path!r}, which")


def _check_layer(card: Card, model: nn.Module, head: Head) -> None:
    """Check that a head site in the anatomy is the layer itself, without hooks: a swap would lose all beside it."""
    site = model.get_submodule(head.path)
    layers = [path for path, module in site.named_modules() if next(module.parameters(recurse=False), None) is not None]
    require(
        not layers or not isinstance(site, nn.Sequential),
        f"{card.id}: head site {head.path!r} is a {type(site).__name__}, of which a swap would replace "
        f"{', '.join(f'{head.path}.{name}' for name in layers)} and all beside; name the last layer",
    )
    kind = next((kind for kind, layer in _KINDS.items() if isinstance(site, layer)), head.kind)
    require(
        head.kind == kind,
        f"{card.id}: head site {head.path!r} is a {type(site).__name__}, and its kind {head.kind!r}: a swap would put "
        f"another layer there; Head(..., kind={kind!r})",
    )
    hooked = bool(site._forward_hooks or site._forward_pre_hooks)  # noqa: SLF001 - torch has no way to ask
    require(not hooked, f"{card.id}: head site {head.path!r} has a hook, which a swap would lose: let forward do that")


def _check_attributes(card: Card, model: nn.Module, head: Head) -> None:
    """Every attribute that the anatomy gives a head site is in the model, and holds its number of classes."""
    for path in head.attributes:
        label = f"{card.id}: head site {head.path!r}: attribute {path!r}"
        value = _attribute(model, path, label)
        require(value == head.num_classes, f"{label} is {value!r}, and the site gives {head.num_classes} classes")


def _attribute(model: nn.Module, path: str, label: str) -> object:
    """What is in an attribute of a model that the anatomy names; a finding where it is not there."""
    try:
        return cast("object", get_attribute(model, path))
    except AttributeError as error:
        nearest = close_matches(path.rpartition(".")[2], vars(model), limit=1)
        raise NonConformance(
            f"{label} is not there: {error}; {did_you_mean(nearest, 'it is a path from the model')}"
        ) from error


_KINDS = {"linear": nn.Linear, "conv": nn.Conv2d, "conv1d": nn.Conv1d, "conv3d": nn.Conv3d}
_VECTOR_AXES = 2
_SCORING = ("distilled", "summed")
"""Roles of head sites whose scores are a part of the model's."""


def check_in_features(card: Card) -> None:
    """Every head site is given as many features and gives as many scores as the anatomy says, measured as it runs."""
    model = model_under_test(card)
    main = main_of(card, model)
    heads = anatomy_of(model).heads
    paths = [head.path for head in heads]
    seen = calls_of(model, paths, inputs_of(card))
    require(
        main.path in seen,
        f"{card.id}: head site {main.path!r} is never called in eval mode: another layer gives the scores, or forward "
        "uses its weight through a function, so that nothing else can stand in its place",
    )
    scored = {*seen}
    if len(seen) < len(paths):
        seen = {**calls_of(duplicate(model).train(), paths, inputs_of(card, train=True)), **seen}
    for head in heads:
        used = f"{card.id}: head site {head.path!r} has the role {head.role!r}, and is not called in eval mode"
        require(head.path in scored or head.role not in _SCORING, f"{used}; one that only trains is 'aux'")
        called = f"{card.id}: head site {head.path!r} is never called, neither in eval mode nor while it trains"
        require(head.path in seen, called)
        _check_site(card, head, seen[head.path])


def _check_site(card: Card, head: Head, call: Call) -> None:
    """Check that a head site is given as many features, and gives as many scores, as the anatomy says."""
    axis = 1 if head.kind.startswith("conv") else -1
    size, width = call.given[axis], call.made[axis]
    require(size == head.in_features, f"{card.id}: {head.path!r} is given {size} features, not {head.in_features}")
    vector = len(call.given) == _VECTOR_AXES
    require(not (head.tokens and vector), f"{card.id}: {head.path!r} is given one vector an image, and not tokens")
    scores = head.num_classes * head.per_class
    each = f", {head.per_class} for each," if head.per_class > 1 else ""
    require(
        scores in (0, width),  # a site without classes is a place for a head
        f"{card.id}: {head.path!r} gives {width} scores, and {head.num_classes} classes{each} are {scores}",
    )
