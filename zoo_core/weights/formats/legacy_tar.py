"""Checkpoints as torch wrote them before 0.2: a tar archive of pickles, read as data.

The layout is that of ``legacy_load`` in torch/serialization.py: ``storages`` holds the numbers, ``tensors`` the shapes
over them, and ``pickle`` the object that was saved, with references to both.
"""

from __future__ import annotations

import mmap
import struct
import tarfile
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.weights.formats.plain_pickle import NotPlain, Unpickler, require
from zoo_core.weights.formats.storages import dtype_of, is_count

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

_MOST_AXES = 64


def read_tar(path: Path) -> object:
    """The object that was saved in an old tar checkpoint, its tensors on the CPU.

    Args:
        path: The archive; nothing is extracted from it to the disk.

    Raises:
        NotPlain: It is not such a checkpoint, a broken one, or one that holds more than data.
    """
    try:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            with tarfile.open(path, mode="r:") as archive:
                members = {name: _Member(data, archive.getmember(name)) for name in ("storages", "tensors", "pickle")}
            objects = _storages(members["storages"])
            objects.update(_tensors(members["tensors"], objects))
            return members["pickle"].load(persistent=lambda said: objects[_key_of(said)])
    except NotPlain:
        raise
    except Exception as error:  # a broken file can make Python raise anything
        raise NotPlain from error


class _Member:
    """The bytes of one member, read from first to last."""

    def __init__(self, data: mmap.mmap, member: tarfile.TarInfo) -> None:
        require(member.isreg() and not member.issparse(), f"{member.name!r:.40} in the archive is not a file")
        self._data, self._at, self._end = data, member.offset_data, member.offset_data + member.size
        require(self._end <= len(data), "the archive was cut off")

    def load(self, persistent: Callable[[object], object] | None = None) -> Any:  # noqa: ANN401 - whatever was pickled
        reader = Unpickler(self._data, self._at, persistent=persistent, budget=len(self._data))
        content, self._at = reader.load(), reader.at
        require(self._at <= self._end)
        return content

    def take(self, count: int) -> bytes:
        """The next bytes; all of them, or none and an error."""
        require(0 <= count <= self._end - self._at, "it ends before its last tensor")
        self._at += count
        return self._data[self._at - count : self._at]

    def integers(self, count: int) -> tuple[int, ...]:
        """That many integers of eight bytes."""
        return struct.unpack(f"<{count}q", self.take(8 * count))


def _storages(file: _Member) -> dict[str, Tensor]:
    """Flat tensors by key."""
    found: dict[str, Tensor] = {}
    for _ in range(_count_of(file)):
        key, _location, kind = file.load()
        dtype = dtype_of(kind)
        (count,) = file.integers(1)
        require(is_count(count))
        numbers = file.take(count * dtype.itemsize)
        empty = torch.empty(0, dtype=dtype, device="cpu")
        found[str(key)] = torch.frombuffer(bytearray(numbers), dtype=dtype) if numbers else empty
    for key, root, offset, count in file.load():
        require(is_count(offset) and is_count(count))
        found[str(key)] = found[str(root)][offset : offset + count]
    return found


def _tensors(file: _Member, storages: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by key, as views of the storages."""
    found: dict[str, Tensor] = {}
    for _ in range(_count_of(file)):
        key, storage, _kind = file.load()
        dimensions, _unused = struct.unpack("<ii", file.take(8))
        require(0 <= dimensions <= _MOST_AXES)
        shape, stride = file.integers(dimensions), file.integers(dimensions)
        (offset,) = file.integers(1)
        require(all(map(is_count, (offset, *shape, *stride))))
        found[str(key)] = storages[str(storage)].as_strided(shape, stride, offset)
    return found


def _count_of(file: _Member) -> int:
    count = file.load()
    require(is_count(count))
    return int(count)


def _key_of(said: object) -> str:
    return str(said[1] if isinstance(said, tuple) and len(said) > 1 else said)
