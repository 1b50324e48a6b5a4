"""The checks of the split: its parts give what the model gives, bit for bit, for any parameters, sizes and dtypes."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.features.split import split
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.features import check_last_map
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.under_test import (
    DETECTORS,
    by_shapes,
    difference,
    example,
    main_of,
    model_under_test,
    noisy,
    same,
    scores_of,
    tensors,
)
from zoo_core.tracing.trace import trace
from zoo_core.utils.duplicate import duplicate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo_core.contract.card import Card


_IMAGES = 4
"""Axes of a batch of images."""


def check_split(card: Card) -> None:
    """``head(pool(features(x)))`` equals ``model(x)`` bit for bit in eval mode, whatever the parameters are."""
    main_of(card, model_under_test(card))
    _check_indivisible(card)
    if not by_shapes(card):
        model = noisy(card)
        _splits(card, model, example(card))
        for x in _other_images(card, model):
            _splits(card, model, x)
    proves = _splits(card, model_under_test(card), example(card))
    check_last_map(card)
    if not (proves or _splits(card, _copy_to_split(card), example(card))):
        raise NotChecked(f"{card.id} gives the same scores for two images, and those prove nothing of its split")


def _check_indivisible(card: Card) -> None:
    """Where ``Anatomy.indivisible`` says why forward does not split, tracing finds no split of it either."""
    model = model_under_test(card)
    anatomy = anatomy_of(model)
    is_traced = current_zoo().member(card.family).family.anatomy is None
    if anatomy.indivisible is None or is_traced or by_shapes(card) or card.task in DETECTORS:
        return
    try:
        traced = trace(model, example(card, batch=1)).anatomy
    except ZooError:  # which has no split either
        return
    found = traced.main is not None and anatomy.main is not None and traced.main.path == anatomy.main.path
    require(
        not found or traced.indivisible is not None,
        f"{card.id}: Anatomy.indivisible says {anatomy.indivisible!r}, and tracing splits it, bit for bit: "
        "zoo.trace(model, x).anatomy has features and pool",
    )


def _other_images(card: Card, model: nn.Module) -> Iterator[Tensor]:
    """Images to check the split with, if forward takes them: of larger values, in channels_last, and wider ones."""
    x = example(card, batch=1)
    others = [[16 * x]]
    if x.dim() == _IMAGES:
        others[0].insert(0, (16 * x).contiguous(memory_format=torch.channels_last))
        if tuple(x.shape[1:]) != card.input_size:
            others.append([torch.cat([x, x[..., : x.shape[-1] // 2]], -1)])
    for each in others:
        yield from islice((one for one in each if _is_taken(model, one)), 1)


def _is_taken(model: nn.Module, x: Tensor) -> bool:
    """Whether forward takes these images and gives numbers, so that the check can compare the split with it."""
    try:
        with torch.no_grad():
            return bool(scores_of(model, x).isfinite().all())
    except (RuntimeError, ValueError, AssertionError):  # as models say that they take another size
        return False


def _splits(card: Card, model: nn.Module, x: Tensor) -> bool:
    """Check that the parts of the split give what the model gives; whether that proves it, since two images differ."""
    backbone, head = split(model)
    ours: Any = x
    steps: dict[str, Callable[[Any], Any]] = {"features": backbone.features, "pool": backbone.pool, "head": head}
    version = x._version  # noqa: SLF001 - torch's only way to say that it was written to
    with torch.no_grad():
        for name, step in steps.items():
            ours = _run_part(card, name, step, ours)
            written = x._version != version  # noqa: SLF001 - as above
            require(not written, f"{card.id}: the {name} of the split writes to the images that it is given")
        theirs = scores_of(model, x)
    scores = next(tensors(ours))
    if not same(scores, theirs):
        other = "" if x.shape == example(card).shape else f" for a batch of {len(x)}, an image of {list(x.shape[1:])}"
        raise NonConformance(f"{card.id}: split and forward differ by up to {difference(scores, theirs)}{other}")
    shared = {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}
    require(not shared, f"{card.id}: backbone and head have {len(shared)} parameters in common")
    return scores.is_meta or bool((scores[0] != scores[-1]).any())


def _copy_to_split(card: Card) -> nn.Module:
    """A copy to check the split of, with norms that know their inputs: GoogLeNet's signal dies before its head."""
    model = duplicate(model_under_test(card))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the class of those of any dimension
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches, of which there will be one
    with torch.no_grad():
        model.train()(example(card))
    return model.eval()


def _run_part(card: Card, name: str, step: Callable[[Any], Any], given: Any) -> Any:
    """Run one part of a split model (features, pool or head); what it raises fails the check."""
    try:
        return step(given)
    except Exception as error:
        shape = str(list(given.shape)) if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
        if isinstance(given, torch.Tensor) and not given.is_contiguous():
            shape += " in channels_last"
        raise NonConformance(
            f"{card.id}: the {name} of the split fails on {shape}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause="Anatomy.features, pool and classify leave out a step of the model's own forward",
        ) from error
