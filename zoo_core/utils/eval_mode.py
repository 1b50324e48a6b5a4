"""Eval mode for as long as something runs, also where several threads run one model."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_lock = threading.Lock()
_running: dict[int, tuple[int, dict[nn.Module, bool]]] = {}
"""Id of a model to how many blocks it runs in, and the modes of its modules before the first of them."""


@contextmanager
def inferring(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; after the last block each module is in the mode it was in.

    Example:
        >>> model = torch.nn.Dropout()
        >>> with inferring(model):
        ...     model.training, torch.is_inference_mode_enabled()
        (False, True)
        >>> model.training
        True
    """
    with _lock:
        count, modes = _running.get(id(model), (0, {}))
        if not count:
            modes = {module: module.training for module in model.modules()}
            model.eval()
        _running[id(model)] = (count + 1, modes)
    try:
        with torch.inference_mode():
            yield
    finally:
        with _lock:
            count, modes = _running.pop(id(model))
            if count > 1:
                _running[id(model)] = (count - 1, modes)
            else:
                for module, mode in modes.items():
                    module.training = mode
