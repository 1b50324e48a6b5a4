"""Copies of a model to run instead of it, with its values or without any."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter


def without_values(model: nn.Module) -> nn.Module:
    """A copy of a model on torch's meta device: shapes only, and no memory."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return duplicate(model, memo)


def duplicate(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a model; it may keep activations of its last forward or locks as attributes.

    Args:
        model: Any module.
        memo: As of ``copy.deepcopy``: what stands for an object, by its id.
    """
    memo = {} if memo is None else memo
    attributes = [value for module in model.modules() for value in vars(module).values()]
    for each in tree_iter(attributes):
        if isinstance(each, Tensor) and each.grad_fn is not None:
            memo[id(each)] = each.detach().clone()  # deepcopy refuses a tensor that was computed
    try:
        return copy.deepcopy(model, {**memo})
    except (TypeError, pickle.PicklingError):
        for each in tree_iter(attributes):
            if not _copies(each):
                memo[id(each)] = each  # such as a lock or an open file: both have the same one
        return copy.deepcopy(model, memo)


def _copies(value: object) -> bool:
    """Whether an attribute of a model can be copied."""
    if isinstance(value, Tensor | nn.Module | set | type(None)):
        return True
    try:
        copy.deepcopy(value)
    except (TypeError, pickle.PicklingError):
        return False
    return True
