"""Batches of cached features: from a device that holds them all, where they fit, and else sent there one by one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from zoo_core.errors import ZooWarning
from zoo_core.utils.arguments import check_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    Rows = tuple[Tensor, Tensor]

_SPARED = 4
"""One part in so many of what is free on a device is left for the head, its gradients and the work."""


class Batches:
    """Batches of cached features and targets on one device; each time it is gone through is an epoch.

    A small head is done with a batch before the next one could be gathered and sent, so the features stay on the device
    where they fit: nothing is then read from the host in an epoch but the order of the rows.

    Args:
        rows: Features and targets, mapped from the disk.
        size: Rows of a batch.
        device: Where the batches are to be.
        shuffle: Whether each epoch has an order of its own.
        seed: Makes these orders reproducible; None draws them from torch's global random state.
        drop_last: Leave out a last batch that is smaller than the others.
        keep: Whether the device is to hold all the rows; None for where they fit.

    Attributes:
        device: Where the batches are.
        kept: Whether all the rows lie there too; otherwise each batch is read from the disk, and sent.

    Example:
        >>> batches = Batches((torch.rand(5, 3), torch.arange(5)), 2, torch.device("cpu"))
        >>> batches
        3 batches of 2 on cpu, from the disk
        >>> [targets.tolist() for features, targets in batches]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        rows: Rows,
        size: int,
        device: torch.device,
        *,
        shuffle: bool = False,
        seed: int | None = None,
        drop_last: bool = False,
        keep: bool | None = None,
    ) -> None:
        held = _held(rows, device, keep=keep)
        self.device = device
        self.kept = held is not None
        self._rows = rows if held is None else held
        self._size, self._shuffle, self._drop_last = size, shuffle, drop_last
        self._generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))

    def __len__(self) -> int:
        """How many batches an epoch has."""
        count = len(self._rows[0])
        return count // self._size if self._drop_last else -(-count // self._size)

    def __iter__(self) -> Iterator[Rows]:
        for chosen in torch.split(self._epoch_order(), self._size)[: len(self)]:
            features, targets = (self._gathered(rows, chosen) for rows in self._rows)
            yield features, targets

    def __repr__(self) -> str:
        return f"{len(self)} batches of {self._size} on {self.device}, {'kept there' if self.kept else 'from the disk'}"

    def _epoch_order(self) -> Tensor:
        """Order of the cached rows in one epoch, drawn on the CPU: a seed means the same one everywhere."""
        count = len(self._rows[0])
        if self._shuffle:
            order = torch.randperm(count, generator=self._generator, device="cpu")
        else:
            order = torch.arange(count, device="cpu")
        return order.to(self.device) if self.kept else order

    def _gathered(self, rows: Tensor, chosen: Tensor) -> Tensor:
        result = rows[chosen]
        if self.kept or self.device.type == "cpu":
            return result
        # sent while the device still works on the last batch, and while the next one is gathered
        result = result.pin_memory() if self.device.type == "cuda" else result
        return result.to(self.device, non_blocking=True)


def _held(rows: Rows, device: torch.device, *, keep: bool | None) -> Rows | None:
    """Features and targets of all batches, copied to the device, if it is to hold them and can."""
    needed = sum(each.nbytes for each in rows)
    room = room_on(device)
    if keep is False or (keep is None and room is None):
        return None
    lacking = (
        f"they take {needed / 2**20:.0f} MiB of the {room / 2**20:.0f} that could be used" if room is not None else ""
    )
    if keep or needed <= (room or 0):
        try:
            features, targets = (each.to(device, copy=True) for each in rows)
        except torch.OutOfMemoryError:
            if keep:
                raise
            lacking += ", and those are in pieces, or taken by now"
        else:
            return features, targets
    warnings.warn(
        f"the features do not fit on {device}, so each batch is read from the disk and sent there: {lacking}",
        ZooWarning,
        stacklevel=5,
    )
    return None


def room_on(device: torch.device) -> int | None:
    """Bytes that batches of features may take on a device, with room for the work beside them.

    None where torch does not tell, which it does of CUDA devices, and for the CPU, which reads what is mapped.

    Example:
        >>> room_on(torch.device("cpu")) is None
        True
    """
    if device.type != "cuda":
        return None
    # what torch holds of the device without using it is free to torch
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    return free - free // _SPARED
