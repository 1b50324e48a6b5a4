"""Pages of a mapped file: room for all of them, and those given back that were read once.

Each page of a mapping that is touched counts as memory of the process until the mapping goes. Where numbers are copied
out of a mapped file, that is as much again as the copy; so what was copied is given back on the way.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 24
"""Bytes that are copied at once."""
_WORTH_IT = 1 << 20
_MAPS = "/proc/self/maps"


def private(tensor: Tensor) -> Tensor:
    """A copy of a tensor whose pages may be mapped from a file, made without holding both in memory.

    Example:
        >>> private(torch.arange(3))
        tensor([0, 1, 2])
    """
    if not tensor.is_contiguous() or tensor.nbytes < _WORTH_IT:
        return tensor.clone(memory_format=torch.contiguous_format)
    made = torch.empty_like(tensor)
    source, target = tensor.detach().view(-1), made.view(-1)
    step = _BLOCK // tensor.itemsize
    for at in range(0, source.numel(), step):
        part = source[at : at + step]
        target[at : at + step] = part
        release(part.data_ptr(), part.nbytes)
    return made


def release(start: int, length: int) -> None:
    """Give back the pages of a mapped file in some memory; memory of any other kind is left as it is."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + length) // mmap.PAGESIZE * mmap.PAGESIZE
    system = _system()
    if last - first >= _WORTH_IT // 4 and system is not None and _is_of_a_file(first, last):
        system(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


@cache
def _system() -> Any | None:
    """The call of the system by which mapped pages are given back; None where it has none."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)


def _is_of_a_file(first: int, last: int) -> bool:
    """Whether these pages are of one private mapping of a file: others would lose what is in them."""
    try:
        with open(_MAPS, encoding="utf-8", errors="replace") as lines:  # noqa: PTH123 - not a path of a user
            for line in lines:
                where, mode, _offset, _device, inode = line.split(maxsplit=5)[:5]
                start, _, end = where.partition("-")
                if int(start, 16) <= first and last <= int(end, 16):
                    return mode.endswith("p") and inode != "0"
    except (OSError, ValueError):
        pass
    return False


def take_space(path: Path) -> None:
    """Take room on the disk for all pages of a file to be mapped: with none left, writing to a map ends the process.

    Raises:
        OSError: There is not so much room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
