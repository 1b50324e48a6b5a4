"""Checkpoints as torch wrote them before 1.6: a tar archive, or a stream of pickles, read as data."""

from __future__ import annotations

import mmap
import struct
import tarfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.weights.formats.memory_limits import require_modest
from zoo_core.weights.formats.outline import BUDGET
from zoo_core.weights.formats.plain_pickle import Name, NotPlain, Unpickler, require
from zoo_core.weights.formats.rebuild_tensors import (
    CALLS,
    CONSTANTS,
    Storage,
    StorageId,
    dtype_of,
    is_count,
    storage_id,
)

_MOST_AXES = 64


def read_tar(path: Path) -> object:
    """The object in a legacy checkpoint, a tar archive as torch wrote it before 0.2, its tensors on the CPU.

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
    """One member of a legacy tar checkpoint, read from first byte to last."""

    def __init__(self, data: mmap.mmap, member: tarfile.TarInfo) -> None:
        require(member.isreg() and not member.issparse(), f"{member.name!r:.40} in the archive is not a file")
        self._data, self._at, self._end = data, member.offset_data, member.offset_data + member.size
        require(self._end <= len(data), "the archive was cut off")

    def load(self, persistent: Callable[[object], object] | None = None) -> Any:
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
    """The storages in a legacy tar checkpoint, as flat tensors by key."""
    result: dict[str, Tensor] = {}
    for _ in range(_count_of(file)):
        key, _location, kind = file.load()
        dtype = dtype_of(kind)
        (count,) = file.integers(1)
        require(is_count(count))
        numbers = file.take(count * dtype.itemsize)
        empty = torch.empty(0, dtype=dtype, device="cpu")
        result[str(key)] = torch.frombuffer(bytearray(numbers), dtype=dtype) if numbers else empty
    for key, root, offset, count in file.load():
        require(is_count(offset) and is_count(count))
        result[str(key)] = result[str(root)][offset : offset + count]
    return result


def _tensors(file: _Member, storages: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in a legacy tar checkpoint by key, as views of the storages."""
    result: dict[str, Tensor] = {}
    for _ in range(_count_of(file)):
        key, storage, _kind = file.load()
        dimensions, _unused = struct.unpack("<ii", file.take(8))
        require(0 <= dimensions <= _MOST_AXES)
        shape, stride = file.integers(dimensions), file.integers(dimensions)
        (offset,) = file.integers(1)
        require(all(map(is_count, (offset, *shape, *stride))))
        flat = storages[str(storage)]
        require_modest(prod(shape) * flat.itemsize, flat.nbytes)
        result[str(key)] = flat.as_strided(shape, stride, offset)
    return result


def _count_of(file: _Member) -> int:
    """How many storages or tensors follow in a member of a legacy tar checkpoint."""
    count = file.load()
    require(is_count(count))
    return int(count)


def _key_of(said: object) -> str:
    """The key of a tensor that the pickle of a legacy tar checkpoint refers to."""
    return str(said[1] if isinstance(said, tuple) and len(said) > 1 else said)


_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_BLOCK = 1 << 24
_WORTH_IT = 1 << 20
_COUNT = 8
"""Bytes of the count before the numbers of a storage."""


def read_stream(file: Path) -> object:
    """What a legacy checkpoint, a stream of pickles as torch wrote it before 1.6, holds; tensors on the CPU.

    Raises:
        NotPlain: It is broken, or more than data.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.pth")
        >>> torch.save({"fc.bias": torch.zeros(2), "epoch": 3}, path, _use_new_zipfile_serialization=False)
        >>> read_stream(path)
        {'fc.bias': tensor([0., 0.]), 'epoch': 3}
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data, {**CALLS, _STORAGE_IN_BYTES: lambda content: _read(_checked(content))})
    except NotPlain:
        raise
    except Exception as error:  # a broken file can make Python raise anything
        raise NotPlain from error


def _read(data: mmap.mmap | bytes, calls: Mapping[str, Callable[..., object]] = CALLS) -> object:
    """What the bytes of a legacy stream of pickles hold: version, content, and the numbers after it."""
    magic, at = _pickle(data, 0, calls=calls)
    if magic != _MAGIC:  # a pickle alone, in which each storage is a file of its own
        require(at == len(data))
        return magic
    version, at = _pickle(data, at)
    require(version == _VERSION, f"it has the version {version!r:.20} of the format")
    machine, at = _pickle(data, at)
    require(isinstance(machine, dict) and machine.get("little_endian", True) is True, "it has another byte order")
    seen: dict[str, StorageId] = {}

    def note(said: object) -> object:
        if _is_module(said):
            return _class_of(said)
        each = storage_id(said)
        require(seen.setdefault(each.key, each)[:3] == each[:3])
        return Storage(_NOTHING, each.dtype)

    # read through once without tensors, to see where the numbers begin and how many there must be
    _, end = _pickle(data, at, persistent=note, calls=_WITHOUT_TENSORS)
    keys, end = _pickle(data, end)
    storages = _numbers(data, end, keys, seen)

    def resolve(said: object) -> object:
        return _class_of(said) if _is_module(said) else _viewed(storages, storage_id(said))

    content, _ = _pickle(data, at, persistent=resolve, calls=CALLS)
    return content


def _is_module(said: object) -> bool:
    """Whether a persistent id is of a class of modules, which legacy checkpoints have with its source code."""
    return isinstance(said, tuple) and len(said) == 4 and said[0] == "module"  # noqa: PLR2004 - class, file and source


def _class_of(said: object) -> Name:
    """The name of the class of modules that a legacy checkpoint refers to; it is never imported."""
    require(isinstance(said, tuple) and type(said[1]) is Name)
    return Name(said[1])  # type: ignore[index]  # a tuple, as just required


_STORAGE_IN_BYTES = "torch.storage._load_from_bytes"
"""What ``pickle.dump`` writes for a storage: the bytes of a file of its own."""
_NOTHING = torch.empty(0, dtype=torch.uint8, device="cpu").untyped_storage()
_WITHOUT_TENSORS: dict[str, Callable[..., object]] = {
    name: (call if name == "torch.Size" else lambda *_: None) for name, call in CALLS.items()
}


def _pickle(data: mmap.mmap | bytes, at: int, **reading: Any) -> tuple[Any, int]:
    """One pickle of a legacy stream, read as data, and where the next one begins."""
    reader = Unpickler(data, at, constants=CONSTANTS, budget=BUDGET * len(data), **reading)
    return reader.load(), reader.at


def _numbers(data: mmap.mmap | bytes, at: int, keys: object, seen: dict[str, StorageId]) -> dict[str, Storage]:
    """The storages by key, from the numbers after the pickles of a legacy stream."""
    require(type(keys) is list and {*keys} == {*seen})
    places: dict[str, tuple[int, int]] = {}
    for key in keys:  # type: ignore[attr-defined]  # a list, as just required
        length = seen[key].length
        require(int.from_bytes(data[at : at + _COUNT], "little") * seen[key].dtype.itemsize == length)
        places[key] = (at + _COUNT, length)
        at += _COUNT + length
    require(at <= len(data), "it ends before its last tensor: the file was cut off")
    return {key: Storage(_copied(data, at, length), seen[key].dtype) for key, (at, length) in places.items()}


def _checked(content: object) -> bytes:
    """The bytes of a file in a file of a legacy checkpoint; those that Python 2 wrote are text."""
    require(isinstance(content, bytes | str))
    return content if isinstance(content, bytes) else str(content).encode("latin-1")


def _copied(data: mmap.mmap | bytes, at: int, length: int) -> torch.UntypedStorage:
    """The numbers of a legacy stream in memory of their own; the pages they were read from are given back."""
    if not length:
        return _NOTHING
    # large ones outside the heap, which keeps what it was given back
    result = mmap.mmap(-1, length) if length >= _WORTH_IT else bytearray(length)
    for start in range(0, length, _BLOCK):
        result[start : start + _BLOCK] = data[at + start : at + min(start + _BLOCK, length)]
        if length >= _WORTH_IT and isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            data.madvise(mmap.MADV_DONTNEED)
    return torch.frombuffer(result, dtype=torch.uint8).untyped_storage()


def _viewed(storages: dict[str, Storage], each: StorageId) -> Storage:
    """A storage of a legacy checkpoint, or the part of it that was a storage of its own before torch 0.4."""
    whole = storages[each.key]
    if each.view is None:
        return whole
    _, first, count = each.view
    start, size = first * each.dtype.itemsize, count * each.dtype.itemsize
    require(start >= 0 and size >= 0 and start + size <= whole.numbers.nbytes())
    return Storage(whole.numbers[start : start + size], whole.dtype)
