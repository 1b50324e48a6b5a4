"""The checks of the verbs that cut a model at its stages: maps of the stages, its front, an encoder and branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.branch import branch
from zoo_core.surgery.features.cut import truncate
from zoo_core.surgery.features.encoder import Encoder
from zoo_core.surgery.features.extract import features
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.select import depths
from zoo_core.testing.checks.stages import check_map
from zoo_core.testing.checks.stem import layers_in_order
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.under_test import DETECTORS, by_shapes, example, inputs_of, model_under_test, need_values, same
from zoo_core.utils.duplicate import duplicate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from zoo_core.contract.anatomy import Anatomy, Stage
    from zoo_core.contract.card import Card

_BRANCHES = {"one": 3, "other": 5}
_BEFORE = "modules that run before the cut are named in no stage, or in a later one"
_TOKEN_AXES = 3
_IMAGE = 3
"""Numbers of an input_size that has channels, rows and columns."""
_MOST_OTHER_TOKENS = 16


def check_depths(card: Card) -> None:
    """Layers run in order of the depths a model is cut by: none between two stages is of neither, or of a later one."""
    model, stages = model_under_test(card), anatomy_of(model_under_test(card)).stages
    _need_images(card, anatomy_of(model))
    last = len(stages) + 1  # heads run in any order, and what is before one of several after another
    by_layer = {name.rpartition(".")[0]: min(depth, last) for name, depth in depths(model).items()}
    order = [path for path in layers_in_order(model, inputs_of(card)) if path in by_layer]
    for place, path in enumerate(order):
        early = next((other for other in order[place + 1 :] if by_layer[other] < by_layer[path]), None)
        if early is not None:
            raise _not_by_depth(card, stages, path, by_layer[path], early, by_layer[early])


def _not_by_depth(
    card: Card, stages: tuple[Stage, ...], path: str, depth: int, early: str, earlier_depth: int
) -> NonConformance:
    """Finding of the check of features that a layer runs before another one, though its depth is later."""
    parts = ["the stem", *(f"stage {stage.name}" for stage in stages), "what comes after the stages"]
    return NonConformance(
        f"{card.id}: {path!r} runs before {early!r}, and its depth is later: it counts to {parts[depth]}, and "
        f"{early!r} to {parts[earlier_depth]}",
        cause="a layer that no stage names counts to what is registered before it, and to the end of the model where "
        "nothing of a stage is registered after it",
        hint=f"name it in the modules of the stage it runs in: Stage(..., modules=({path!r}, ...))",
    )


def check_features(card: Card) -> None:
    """``zoo.features``, ``zoo.truncate`` and ``zoo.encoder`` give one map a stage, and the same one."""
    model, anatomy = model_under_test(card), anatomy_of(model_under_test(card))
    _need_images(card, anatomy)
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
    """Check that what ``zoo.features`` gets by a stage's ``read`` out of what a module gives is in its graph."""
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


def _need_images(card: Card, anatomy: Anatomy) -> None:
    """Skip a model that features cannot be cut from: it is not called with one batch of images, or has no stages."""
    if card.task in DETECTORS or card.task == "optical_flow" or len(card.input_size) < _IMAGE:
        raise NotChecked(f"{card.id} is not called with one batch of images")
    if not anatomy.stages:
        raise NotChecked(f"{card.id} has no stages")


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
    _need_images(card, anatomy)
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
