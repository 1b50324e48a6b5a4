"""A checkpoint of tensors and plain data, as ``torch.save`` writes nearly all of them, in about half of torch's time.

``torch.load(weights_only=True)`` takes longer to make sense of the list of tensors than all else that loading a ResNet
needs. What holds anything but tensors and plain data is left to it all the same.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO
from zipfile import ZIP_STORED

import torch

from zoo_core.weights.formats.plain_pickle import Name, NotPlain, Storage, Unpickler, require
from zoo_core.weights.formats.storages import DTYPES

if TYPE_CHECKING:
    import zipfile
    from pathlib import Path

    from torch import Tensor

_LOCAL_HEADER = 30
"""Bytes before each member of a zip archive, up to its name and whatever else is said of it there."""
_ENCRYPTED = 1


def read_plain(file: Path, archive: zipfile.ZipFile) -> object:
    """What a checkpoint of tensors and plain data holds, mapped from the file.

    Args:
        file: It was written by ``torch.save``.
        archive: The same, opened.

    Raises:
        NotPlain: It holds something else, or is compressed, broken, or of a machine with another byte order.

    Example:
        >>> import tempfile, pathlib, zipfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.pth")
        >>> torch.save({"fc.bias": torch.zeros(2), "epoch": 3}, path)
        >>> with zipfile.ZipFile(path) as archive:
        ...     read_plain(path, archive)
        {'fc.bias': tensor([0., 0.]), 'epoch': 3}
    """
    try:
        with file.open("rb", buffering=0) as opened:
            tensors = _Tensors(file, archive, opened)
            return Unpickler(tensors.outline, tensors.storage, tensors.tensor).load()
    except Exception as error:  # whatever is wrong with it, torch.load knows how to say
        raise NotPlain from error


class _Tensors:
    """The tensors in the file, each storage mapped once, however many tensors share it."""

    def __init__(self, file: Path, archive: zipfile.ZipFile, opened: BinaryIO) -> None:
        self._archive, self._opened = archive, opened
        self._root = archive.namelist()[0].partition("/")[0]
        self._size = file.stat().st_size
        self._bytes = torch.UntypedStorage.from_file(str(file), shared=False, nbytes=self._size)
        self._known: dict[str, torch.UntypedStorage] = {}

    @property
    def outline(self) -> bytes:
        """The pickle: all that the file holds, but for the numbers in the tensors."""
        order = f"{self._root}/byteorder"
        require(order not in self._archive.namelist() or self._archive.read(order).decode() == sys.byteorder)
        outline = self._archive.getinfo(f"{self._root}/data.pkl")
        require(outline.compress_type == ZIP_STORED)
        return self._archive.read(outline)

    def storage(self, word: str, kind: str, key: str, place: str, count: int) -> Storage:
        """The numbers that a persistent id tells of; where they were when they were saved does not matter."""
        del place
        require(word == "storage" and type(kind) is Name and type(key) is str and _is_count(count))
        module, _, name = kind.rpartition(".")
        require(module == "torch" and name.endswith("Storage"))
        dtype = DTYPES[name.removesuffix("Storage")]
        length = count * dtype.itemsize
        if key not in self._known:
            start = self._start_of(f"{self._root}/data/{key}", length)
            self._known[key] = self._bytes[start : start + length]
        require(self._known[key].nbytes() == length)
        return Storage(self._known[key], dtype, count)

    def tensor(
        self,
        storage: Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,  # noqa: FBT001 - torch's arguments, by their places
        hooks: object,
        metadata: object = None,
    ) -> Tensor:
        """What ``torch._utils._rebuild_tensor_v2`` makes of these."""
        require(type(storage) is Storage and not requires_grad and not hooks and not metadata)
        require(type(size) is tuple and type(stride) is tuple and all(map(_is_count, (offset, *size, *stride))))
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        require(0 in size or last < storage.length)  # or it would show what lies behind
        empty = torch.empty(0, dtype=storage.dtype, device="cpu")
        return empty.set_(storage.numbers, offset, size, stride)

    def _start_of(self, name: str, length: int) -> int:
        """Where the bytes of a member begin."""
        member = self._archive.getinfo(name)
        require(member.compress_type == ZIP_STORED and not member.flag_bits & _ENCRYPTED)
        require(member.file_size == length)
        self._opened.seek(member.header_offset)
        header = self._opened.read(_LOCAL_HEADER)
        more = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = member.header_offset + _LOCAL_HEADER + more
        require(len(header) == _LOCAL_HEADER and start + length <= self._size)
        return start


def _is_count(number: object) -> bool:
    return type(number) is int and number >= 0
