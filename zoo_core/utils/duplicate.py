"""Copies of a model to run instead of it, with its values or without any."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter


def without_values(model: nn.Module) -> nn.Module:
    """A copy of a model on torch's meta device: shapes only, and no memory."""
    return duplicate(model, {id(tensor): _meta_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())})


def _meta_tensor(tensor: Tensor) -> Tensor:
    """A copy of a tensor without its values, on the meta device, to stand in a duplicate of a model."""
    if tensor.is_meta:  # torch takes ten times as long to find the layout of one there
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    else:
        empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def duplicate(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a model; it may keep activations of its last forward or locks as attributes.

    Args:
        model: Any module.
        memo: As of ``copy.deepcopy``: what stands for an object, by its id.
    """
    bare = (each for each in (*model.parameters(), *model.buffers()) if each.is_meta and type(each) in _PLAIN)
    memo = {id(tensor): _meta_tensor(tensor) for tensor in bare} | (memo or {})
    with suppress(RuntimeError, TypeError, pickle.PicklingError):
        return _deepcopy(model, {**memo})
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


def _deepcopy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy`` makes of a model, in a third of the time: most of it goes to flags and to empty dicts."""
    modules = [each for each in model.modules() if id(each) not in memo and _is_plain(type(each))]  # type: ignore[arg-type]  # mypy takes the hash of a class for its objects'
    memo |= {id(module): object.__new__(type(module)) for module in modules}
    for module in reversed(modules):  # those inside first, as deepcopy does
        twin = vars(memo[id(module)])
        for name, value in vars(module).items():
            kind = type(value)
            if kind in _CONTAINERS and not value:
                twin[name] = memo.setdefault(id(value), kind())
            elif name != "_compiled_call_impl":  # which nn.Module leaves out too
                twin[name] = value if kind in _ATOMS else copy.deepcopy(value, memo)
    return copy.deepcopy(model, memo)


_PLAIN = (Tensor, nn.Parameter)
_ATOMS = (type(None), bool, int, float, str)
_CONTAINERS = (dict, set, OrderedDict)
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__", "__slots__")


@cache
def _is_plain(kind: type) -> bool:
    """Whether modules of a class are copied as all are, attribute by attribute."""
    bases = [base for base in kind.__mro__ if base not in (nn.Module, object)]
    return not any(name in vars(base) for base in bases for name in _OWN)


def _copies(value: object) -> bool:
    """Whether an attribute of a model can be copied."""
    if isinstance(value, Tensor | nn.Module | set | type(None)):
        return True
    try:
        copy.deepcopy(value)
    except (TypeError, pickle.PicklingError):
        return False
    return True


def with_the_same_tensors(model: nn.Module) -> nn.Module:
    """A copy that shares every tensor, so that what forward keeps as attributes stays off the model."""
    tensors = [*model.parameters(), *model.buffers()]
    return duplicate(model, {id(each): each for each in tensors})
