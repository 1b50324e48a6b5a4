"""The checks of training: what is frozen stays so, and a split trains as its model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zoo_core.contract.card import Card
from zoo_core.surgery.features.split import split
from zoo_core.surgery.fine_tuning.freeze import freeze
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.structure import under
from zoo_core.testing.checks.swap import NUM_CLASSES
from zoo_core.testing.findings import NonConformance, difference, require
from zoo_core.testing.under_test import (
    arguments,
    example,
    inputs_of,
    inside,
    main_of,
    model_under_test,
    need_values,
    noisy,
    same,
    scores_of,
    tensors,
)
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.random_state import seeded

_DROPOUTS = {
    getattr(functional, name)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
}
_KEPT = 0.75
_ROUNDING = 1e-5
"""Of the largest score."""


def check_training(card: Card) -> None:
    """In train mode too the split gives what forward gives, and a gradient reaches every parameter that it reaches."""
    main_of(card, model_under_test(card))
    model = noisy(card)
    backbone, head = split(model)
    for each in (model, backbone, head):
        each.train()
    x = example(card)
    with _WithoutChance():
        with seeded(0):
            theirs = scores_of(model, *arguments(card, x, train=True)).detach()
        with seeded(0):
            ours: Tensor = next(tensors(head(backbone(x))))
        if not _is_near(ours.detach(), theirs):
            raise NonConformance(
                f"{card.id}: in train mode split and forward differ by up to {difference(ours.detach(), theirs)}",
                cause="the split leaves a dropout out, or normalizes with the running statistics",
                hint="modules that do nothing in eval mode belong into Anatomy.features, pool or classify too",
            )
        _check_gradients(card, model, ours, lambda: scores_of(model, *arguments(card, x, train=True)))


def _is_near(ours: Tensor, theirs: Tensor) -> bool:
    """In the check of training, whether scores are equal to rounding: kernels there may sum in another order."""
    if theirs.is_meta or ours.shape != theirs.shape or not bool(theirs.isfinite().all()):
        return same(ours, theirs) or (ours.shape == theirs.shape and not theirs.is_meta)
    return bool((ours - theirs).abs().max() <= _ROUNDING * theirs.abs().max())


def _check_gradients(card: Card, model: nn.Module, scores: Tensor, run: Callable[[], Tensor]) -> None:
    """In the check of training, that a gradient reaches all through the split that it reaches through forward."""
    require(
        scores.requires_grad,
        f"{card.id}: the scores of its split have no gradient: features, pool or classify work under torch.no_grad() "
        "or on a detached tensor",
    )
    scores.float().square().sum().backward()  # type: ignore[no-untyped-call]  # torch has no types there
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    if not without:
        return
    model.zero_grad()
    run().float().square().sum().backward()  # type: ignore[no-untyped-call]  # as above
    reached = [name for name in without if model.get_parameter(name).grad is not None]
    require(
        not reached,
        f"{card.id}: no gradient of its split reaches {', '.join(reached[:5])}: features, pool or classify work under "
        "torch.no_grad() or on a detached tensor",
    )
    anatomy, never = anatomy_of(model), {*without}
    parts = {"the stem": anatomy.stem, **{f"stage {stage.name}": stage.modules for stage in anatomy.stages}}
    for part, paths in parts.items():
        names = [name for name, _ in model.named_parameters() if any(under(name, path) for path in paths)]
        require(
            not names or not never.issuperset(names),
            f"{card.id}: in train mode no gradient of forward reaches {part}: the model computes it under "
            "torch.no_grad(), or detaches what it gives",
        )


class _WithoutChance(TorchFunctionMode):
    """Inside the block, dropout and stochastic depth in train mode scale what they would drop at random.

    A model may draw for auxiliary heads in between, so that a seed alone does not make two passes alike.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer for a function of torch."""
        inputs = kwargs or {}
        if function in _DROPOUTS:
            probability = inputs.get("p", args[1] if len(args) > 1 else 0.5)
            training = inputs.get("training", args[2] if len(args) > 2 else True)  # noqa: PLR2004 - its position
            x: Tensor = args[0] if args else inputs["input"]
            return x * _KEPT if training and probability else x
        if function is Tensor.bernoulli_:
            return args[0].fill_(_KEPT)
        if function is torch.bernoulli:
            return torch.full_like(args[0], _KEPT)
        return function(*args, **inputs)


def check_freeze(card: Card) -> None:
    """With another head and a frozen backbone gradients reach the head alone, and all scores are of its classes."""
    model = duplicate(model_under_test(card))
    main_of(card, model)
    swap_head(model, NUM_CLASSES, seed=0)
    sites = [head.path for head in anatomy_of(model).heads]
    freeze(model, "backbone").train()
    result = [*tensors(_trained_on(card, model))]
    _check_widths(card, model, result)
    sum(each.float().sum() for each in result).backward()  # type: ignore[union-attr]  # every model gives a tensor
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    outside = [name for name in touched if not inside(name, sites)]
    require(not outside, f"{card.id}: gradients outside the head: {', '.join(outside[:5])}")
    require(bool(touched), f"{card.id}: no gradient reached the head")


def _trained_on(card: Card, model: nn.Module) -> object:
    """What a model in a check of training gives; an output object is a mapping of tensors, or says where they are."""
    made: object = model(*inputs_of(card, train=True))
    return made if next(tensors(made), None) is not None else anatomy_of(model).scores_in(made)


def _check_widths(card: Card, model: nn.Module, scores: list[Tensor]) -> None:
    """In the check of training, that all that a swapped model trains on is scores of the new classes, or losses."""
    main = main_of(card, model)
    axis = -1 if main.tokens else 1
    shapes = [tuple(each.shape) for each in scores if each.dim() > 1]
    other = [shape for shape in shapes if shape[axis] == card.num_classes != NUM_CLASSES]
    left = "a head that only trains was left out; name it in Anatomy.heads"
    require(not other, f"{card.id}: after a swap to {NUM_CLASSES} classes it trains on scores of {other[:1]}: {left}")


def check_norms(card: Card) -> None:
    """Frozen norms stay as they are through ``train()`` and a forward pass: no running statistic moves."""
    need_values(card)
    model = duplicate(model_under_test(card))
    freeze(model, "backbone" if anatomy_of(model).heads else "all")
    model.train()
    modules = dict(model.named_modules())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model(*inputs_of(card, train=True))
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)]
    if moved:
        norm = modules[moved[0].rpartition(".")[0]]
        mode = "was put into train mode" if norm.training else "is in eval mode, and does not follow the model"
        raise NonConformance(f"{card.id}: moved while frozen: {', '.join(moved[:5])}; the {type(norm).__name__} {mode}")
