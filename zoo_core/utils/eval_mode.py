"""Eval mode for as long as something runs, also where several threads run one model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_lock = threading.Lock()
_running: dict[nn.Module, tuple[int, bool]] = {}
"""Module to how many blocks it runs in, and its mode before the first of them: two models may share a module."""


@contextmanager
def inferring(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; after the last block each module is in the mode it was in.

    It is no inference mode: what a forward keeps on its module for the next call, such as the table of distances of a
    ConViT, could not be trained with any more.

    Example:
        >>> model = torch.nn.Dropout()
        >>> with inferring(model):
        ...     model.training, torch.is_grad_enabled()
        (False, False)
        >>> model.training
        True
    """
    with _lock:
        modules = list(model.modules())
        for module in modules:
            count, mode = _running.get(module, (0, module.training))
            _running[module] = count + 1, mode
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _lock:
            for module in modules:
                count, mode = _running.pop(module)
                if count > 1:
                    _running[module] = count - 1, mode
                else:
                    module.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have ``module`` in eval mode inside the block, and every part of it in its own mode again afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
