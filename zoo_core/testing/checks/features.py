"""The checks of features: maps of the stages, and the verbs that cut a model there: its front, encoder, branches."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy
from zoo_core.contract.card import Card
from zoo_core.errors import NotSupported
from zoo_core.surgery.features.branch import branch
from zoo_core.surgery.features.cut import truncate
from zoo_core.surgery.features.encoder import Encoder
from zoo_core.surgery.features.extract import features
from zoo_core.surgery.features.split import split
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.structure import under
from zoo_core.testing.checks.stages import check_map
from zoo_core.testing.findings import NonConformance, require
from zoo_core.testing.under_test import (
    by_shapes,
    example,
    model_under_test,
    need_stages,
    need_values,
    parameters_used,
    same,
    tensors,
)
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.meta_shapes import MetaShapes

_MAP_AXES = 3
_STEPS = 4
"""Of a map, at least, that is one place only where it was pooled."""
_BRANCHES = {"one": 3, "other": 5}
_BEFORE = "modules that run before the cut are named in no stage, or in a later one"
_TOKEN_AXES = 3
_MOST_OTHER_TOKENS = 16


def check_features(card: Card) -> None:
    """``zoo.features``, ``zoo.truncate`` and ``zoo.encoder`` give one map a stage, and the same one."""
    model, anatomy = model_under_test(card), anatomy_of(model_under_test(card))
    need_stages(card, anatomy)
    x = example(card, batch=1)
    with torch.no_grad():
        maps = features(model, x)
        for stage in anatomy.stages:
            check_map(card, stage, maps[stage.name])
        middle = anatomy.stages[len(anatomy.stages) // 2].name
        front = _run_verb(
            card, f"the front of zoo.truncate(model, after={middle!r})", lambda: truncate(model, after=middle)(x)
        )
        require(same(front, maps[middle]), f"{card.id}: the front up to {middle} gives another map than its stage")
        _check_encoder(card, model, anatomy, maps, x)
    if not by_shapes(card):
        _check_reads(card, model, anatomy, x)


def _check_reads(card: Card, model: nn.Module, anatomy: Anatomy, x: Tensor) -> None:
    """In the check of features, that what a stage's ``read`` gets out of what a module gives is in its graph."""
    reading = [stage for stage in anatomy.stages if stage.read]
    if not reading:
        return
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        maps = features(model, x, at=[stage.name for stage in reading])
    for stage in reading:
        grown = maps[stage.name].pow(2).sum() if maps[stage.name].requires_grad else None
        (gradient,) = torch.autograd.grad(grown, x, retain_graph=True) if grown is not None else (None,)
        require(
            gradient is not None and bool(gradient.any()),
            f"{card.id}: no gradient of stage {stage.name} reaches the image: its read detaches or loses the map",
        )


def _run_verb(card: Card, what: str, run: Callable[[], Any], cause: str = _BEFORE) -> Any:
    """Run a verb that cuts the model at its stages, such as that for features; what it raises is a finding."""
    try:
        with torch.no_grad():
            return run()
    except NotSupported:
        raise
    except Exception as error:
        raise NonConformance(
            f"{card.id}: {what} fails",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause=cause,
        ) from error


def _check_encoder(card: Card, model: nn.Module, anatomy: Anatomy, maps: Mapping[str, Tensor], x: Tensor) -> None:
    """``zoo.encoder`` gives the maps that ``zoo.features`` gives, with the channels that it names."""
    made = Encoder(model)
    outputs = _run_verb(card, "zoo.encoder", lambda: made(x))
    for name, channels, output in zip(made.names, made.channels, outputs, strict=True):
        label = f"{card.id}: the map {name} of zoo.encoder"
        require(output.shape[1] == channels, f"{label} has {output.shape[1]} channels, not {channels}")
        expected = maps[name]
        if expected.dim() == _TOKEN_AXES:
            output = output.flatten(2).transpose(1, 2)  # noqa: PLW2901 - the same in the layout of the stage
            others = expected.shape[1] - output.shape[1]
            require(
                0 <= others <= _MOST_OTHER_TOKENS,
                f"{label} has {output.shape[1]} of the {expected.shape[1]} tokens that its stage gives",
            )
            expected = expected[:, others:]
        elif anatomy.layout == "NHWC":
            expected = torch.movedim(expected, -1, 1)
        require(same(output, expected), f"{label} is another one than its stage gives")


def check_branch(card: Card) -> None:
    """Branches that copy the last stage give scores of their classes; or zoo refuses them, with a reason."""
    need_values(card)
    model = duplicate(model_under_test(card))
    anatomy = anatomy_of(model)
    need_stages(card, anatomy)
    if anatomy.main is None:
        raise NotSupported(f"{card.id} has no head", cause=anatomy.headless)
    last = anatomy.stages[-1].name
    scores = _run_verb(
        card,
        f"zoo.branch(model, at={last!r})",
        lambda: branch(model, at=last, heads=_BRANCHES, seed=0)(example(card)),
        "Anatomy.pool or classify uses modules that run before the last stage, of which a branch has none",
    )
    shapes = {name: tuple(output.shape[:2]) for name, output in scores.items()}
    require(
        shapes == {name: (2, count) for name, count in _BRANCHES.items()},
        f"{card.id}: branches of {_BRANCHES} classes give scores of {shapes}",
    )


def check_last_map(card: Card) -> None:
    """``Anatomy.features`` gives the last map: all of the last stage is in it, and it was not pooled."""
    anatomy, x = anatomy_of(model_under_test(card)), torch.zeros(1, *card.input_size, device="meta")
    if anatomy.features is None or not anatomy.stages or anatomy.indivisible:
        return
    model = without_values(model_under_test(card))
    stage, label = anatomy.stages[-1], f"{card.id}: Anatomy.features"
    try:
        with torch.enable_grad(), MetaShapes():
            given = [*tensors(cast("Any", split(model)[0]).features(x))]
    except Exception:  # noqa: BLE001 - it needs values, or the check of the split says what is wrong
        return
    shape = [*given[0].shape]
    small = min(x.shape[-2:]) < _STEPS * stage.stride
    pooled = len(shape) < _MAP_AXES or (len(shape) > _MAP_AXES and prod(shape[2:]) == 1 and not small)
    require(not pooled, f"{label} gives {shape}, and no map or tokens: what pools them belongs into Anatomy.pool")
    used = {name for each in given for name in parameters_used(model, each)}
    left_out = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in used and any(under(name, path) for path in stage.modules)
    ]
    own = [name for name, _ in model.named_parameters() if any(under(name, path) for path in stage.modules)]
    require(
        not used or not own or len(left_out) < len(own),
        f"{label} leaves out stage {stage.name}: that belongs into features, and what comes after it into pool",
    )


def check_released(card: Card, backbone: nn.Module, x: Tensor) -> None:
    """Check that a forward of features keeps none in memory once nothing refers to them and others were computed."""
    with torch.no_grad(), MetaShapes():
        kept = [weakref.ref(each) for each in tensors(backbone.features(x.clone()))]  # type: ignore[operator] # a part
        backbone.features(x.clone())  # type: ignore[operator] # as above
    if any(each() is not None for each in kept):
        gc.collect()
    require(
        all(each() is None for each in kept),
        f"{card.id}: what Anatomy.features computed stays in memory when others are computed: a function that it calls "
        "keeps it",
    )
