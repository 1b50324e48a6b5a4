"""The check that building a model and asking for its anatomy change neither the model nor the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.build.construct import construct
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import knowledge_of
from zoo_core.testing.running import same
from zoo_core.testing.under_test import model_under_test, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo_core.contract.card import Card

_GLOBAL: dict[str, Callable[[], object]] = {
    "the default dtype": torch.get_default_dtype,
    "the default device": torch.get_default_device,
    "the number of threads": torch.get_num_threads,
    "whether gradients are recorded": torch.is_grad_enabled,
    "torch.nn.Linear": lambda: nn.Linear,
    "torch.nn.Conv2d": lambda: nn.Conv2d,
    "torch.nn.Module.__call__": lambda: nn.Module.__call__,
    "torch.nn.functional.relu": lambda: nn.functional.relu,
}
"""What belongs to the process, and how to look at it."""


def check_side_effects(card: Card) -> None:
    """Building a model and asking for its anatomy leave the process and the model as they were; a part of "builds".

    Each build is a model of its own that trains; the anatomy is the same each time it is asked for.
    """
    model, member = model_under_test(card), current_zoo().member(card.family)
    before = {name: look() for name, look in _GLOBAL.items()}
    options = knowledge_of(model).options
    again = construct(card, options, values=False)
    changed = [name for name, look in _GLOBAL.items() if look() is not before[name] and look() != before[name]]
    require(not changed, f"{card.id}: building it changes {', '.join(changed)} for the whole process")
    shared = {id(parameter) for parameter in again.parameters()} & {id(parameter) for parameter in model.parameters()}
    require(not shared, f"{card.id}: its constructor returns a model that shares parameters with the one before")
    trainable = [parameter.requires_grad for parameter in again.parameters() if parameter.is_floating_point()]
    require(any(trainable) or not trainable, f"{card.id}: its constructor freezes every parameter")
    if member.family.anatomy is not None and card.name not in member.own:
        _check_anatomy(card, model, member.anatomy)


def _check_anatomy(card: Card, model: nn.Module, anatomy: Callable[[nn.Module], Any]) -> None:
    """Asking twice gives one answer, and moves no tensor, no flag and no mode."""
    label = f"{card.id}: asking for its anatomy"
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    modes = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    one, other = anatomy(model), anatomy(model)
    now = model.state_dict()
    moved = [name for name, tensor in tensors.items() if name not in now or not same(now[name], tensor)]
    require(not moved, f"{label} changes {', '.join(moved[:5])}")
    require(modes == [module.training for module in model.modules()], f"{label} changes the mode of a module")
    require(trained == [parameter.requires_grad for parameter in model.parameters()], f"{label} freezes parameters")
    for name in ("heads", "stem", "layout", "headless", "indivisible", "keypoints"):
        require(getattr(one, name) == getattr(other, name), f"{label} twice gives other {name}")
    stages = [
        [(stage.name, stage.modules, stage.channels, stage.stride) for stage in each.stages] for each in (one, other)
    ]
    require(stages[0] == stages[1], f"{label} twice gives other stages")
