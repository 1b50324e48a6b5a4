"""The checks of copies of a model: by deepcopy, by pickle, and by saving and loading it."""

from __future__ import annotations

import copy
import pickle
import tempfile
from typing import cast

import torch
from torch import nn

from zoo_core.contract.card import Card
from zoo_core.errors import ZooError
from zoo_core.recipe.load import load
from zoo_core.recipe.save import save
from zoo_core.surgery.fine_tuning.freeze import freeze
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.swap import NUM_CLASSES
from zoo_core.testing.findings import NonConformance, only_shapes, require
from zoo_core.testing.under_test import by_shapes, inputs_of, model_under_test, need_values, same, scores_of
from zoo_core.utils.duplicate import duplicate


def check_twins(card: Card) -> None:
    """Copies by deepcopy and pickle keep the outputs, and what zoo knows."""
    model = model_under_test(card)
    if by_shapes(card):
        with torch.no_grad():
            model(*inputs_of(card, batch=1))  # as where values are compared: some hang hooks on themselves as they run
    for how, copied in (("deepcopy", copy.deepcopy), ("pickle", _pickled)):
        try:
            twin = copied(model)
        except Exception as error:
            raise NonConformance(
                f"{card.id}: {how} fails",
                got=f"{type(error).__name__}: {error}",
                cause="the model or its anatomy holds a lambda, a closure or an open file",
                hint="give Anatomy module-level functions, zoo_core.Chain, or functools.partial of these",
            ) from error
        require(anatomy_of(twin).heads == anatomy_of(model).heads, f"{card.id}: another anatomy after {how}")
        require(_gives_the_same(card, twin, model), f"{card.id}: other outputs after {how}")
        del twin  # before the next one is made: the largest models have gigabytes


def _pickled(model: nn.Module) -> nn.Module:
    """A copy of the model, made by pickle."""
    return cast("nn.Module", pickle.loads(pickle.dumps(model)))  # noqa: S301 - our own bytes


def _gives_the_same(card: Card, ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether a copy gives the same as its model; where these have no values, nothing is run."""
    if by_shapes(card):
        only_shapes("outputs")
        return True
    x = inputs_of(card, batch=1)
    with torch.no_grad():
        return same(scores_of(ours, *x), scores_of(theirs, *x))


def check_save(card: Card) -> None:
    """``zoo.save`` and ``zoo.load`` make a copy of a model with another head and a frozen backbone, bit for bit."""
    need_values(card)
    model = duplicate(model_under_test(card))
    if anatomy_of(model).heads:
        freeze(swap_head(model, NUM_CLASSES, seed=0), "backbone")
    with tempfile.TemporaryDirectory() as folder:
        try:
            again = load(save(model, folder)).eval()
        except ZooError as error:
            raise NonConformance(f"{card.id}: what is saved does not come back: {error}") from error
    ours, theirs = again.state_dict(), model.state_dict()
    other = sorted(ours.keys() ^ theirs.keys())
    require(not other, f"{card.id}: saved and loaded, it has other tensors: {', '.join(other[:5])}")
    changed = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    require(not changed, f"{card.id}: these tensors came back with other values: {', '.join(changed[:5])}")
    frozen = [{name for name, p in each.named_parameters() if not p.requires_grad} for each in (again, model)]
    require(frozen[0] == frozen[1], f"{card.id}: saved and loaded, other parameters are frozen")
    right = _gives_the_same(card, again, model)
    require(right, f"{card.id}: other outputs after it was saved and loaded, from the same tensors")
