"""Which device a user may name, and code that does not depend on torch's default device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zoo_core.errors import UsageError


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


def usable_device(device: object) -> torch.device:
    """The device of that name, when this machine has it.

    Raises:
        UsageError: It has not.
    """
    try:
        result: torch.device = torch.device(device)  # type: ignore[call-overload]  # whatever the user gave
        torch.empty(0, device=result)
    except Exception as error:
        raise UsageError(
            f"device cannot be {device!r}",
            expected="a device of this machine, such as 'cpu' or 'cuda:0'",
            cause=str(error).partition("\n")[0].strip(),
            hint="leave it out to build on the CPU",
        ) from error
    return result
