"""torch's default device, and how not to depend on it: tensors are made on the CPU, and sent on from there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Make tensors on the CPU inside the block, whatever torch's default device is.

    Values that are about to be replaced never lie on a GPU then, and what is drawn comes from one generator, so that a
    seed means the same head on every device.

    Example:
        >>> with torch.device("meta"), on_the_cpu():
        ...     torch.nn.Linear(2, 2).weight.device
        device(type='cpu')
    """
    if default_device() is None:  # the mode costs a little for each operation
        yield
        return
    with torch.device("cpu"):
        yield


def default_device() -> torch.device | None:
    """Where the user has said that new tensors go, by ``torch.set_default_device`` or in a ``with``; None for the CPU.

    Example:
        >>> with torch.device("meta"):
        ...     default_device()
        device(type='meta')
    """
    result = torch.get_default_device()
    return None if result.type == "cpu" else result
