"""A checkpoint as ``torch.save`` writes it today: a zip archive of one pickle and the numbers of each storage.

Read here as data, in about half of torch's time. What a member may be is known from the directory before anything of
it is read.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED

import torch

from zoo_core.utils.paths import in_utf8
from zoo_core.weights.formats.outline import BUDGET
from zoo_core.weights.formats.plain_pickle import NotPlain, Unpickler, require
from zoo_core.weights.formats.rebuild_tensors import CALLS, CONSTANTS, Storage, storage_id

_LOCAL_HEADER = 30
"""Bytes before each member of a zip archive, up to its name and whatever else is said of it there."""
_ENCRYPTED = 1
_WORD = 16
"""Bytes of the longest name of a byte order, and some more."""
_FREE = 32 << 20
"""Bytes that a compressed member of any archive may unpack to."""
_RATIO = 16
"""How much smaller than its tensors a compressed checkpoint may be beyond that: weights hardly shrink at all."""
_BLOCK = 1 << 20


def read_plain(file: Path, archive: zipfile.ZipFile) -> tuple[object, bool]:
    """What a zip archive of today's ``torch.save`` holds, and whether tensors are mapped from it: not if compressed.

    Raises:
        NotPlain: It is broken, or more than data; the message says what, where that is known.

    Example:
        >>> import tempfile, pathlib, zipfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.pth")
        >>> torch.save({"fc.bias": torch.zeros(2), "epoch": 3}, path)
        >>> with zipfile.ZipFile(path) as archive:
        ...     read_plain(path, archive)
        ({'fc.bias': tensor([0., 0.]), 'epoch': 3}, True)
    """
    try:
        with file.open("rb", buffering=0) as opened:
            storages = _Storages(file, archive, opened)
            reader = Unpickler(
                storages.outline,
                calls=CALLS,
                constants=CONSTANTS,
                persistent=storages.of,
                budget=BUDGET * storages.size,
            )
            return reader.load(), storages.mapped
    except NotPlain:
        raise
    except Exception as error:  # a broken file can make Python raise anything
        raise NotPlain from error


class _Storages:
    """The storages in a zip archive of ``torch.save``, each mapped once, however many tensors share it."""

    def __init__(self, file: Path, archive: zipfile.ZipFile, opened: BinaryIO) -> None:
        self._archive, self._opened = archive, opened
        self._root = archive.namelist()[0].partition("/")[0]
        self.size = file.stat().st_size
        self.mapped = True
        self._unpacked = _FREE + _RATIO * self.size
        self._bytes = torch.UntypedStorage.from_file(
            str(in_utf8(file, opened.fileno())), shared=False, nbytes=self.size
        )
        self._known: dict[str, torch.UntypedStorage] = {}

    @property
    def outline(self) -> bytes:
        """The pickle: all that the file holds, but for the numbers in the tensors."""
        order = f"{self._root}/byteorder"
        if order in self._archive.namelist():
            require(self._archive.getinfo(order).file_size <= _WORD)
            written = self._archive.read(order).decode()
            require(written == sys.byteorder, f"it was written on a machine with another byte order: {written!r}")
        outline = self._archive.getinfo(f"{self._root}/data.pkl")
        if outline.compress_type != ZIP_STORED:
            return self._unpack(outline)
        require(outline.file_size <= self.size)
        return self._archive.read(outline)

    def of(self, said: object) -> Storage:
        """The storage that a persistent id names; where it was when it was saved does not matter."""
        key, dtype, length, view = storage_id(said)
        require(view is None)
        if key not in self._known:
            member = self._archive.getinfo(f"{self._root}/data/{key}")
            require(member.file_size == length and not member.flag_bits & _ENCRYPTED)
            self._known[key] = self._numbers(member, length)
        numbers = self._known[key]
        require(numbers.nbytes() == length)
        return Storage(numbers, dtype)

    def _numbers(self, member: zipfile.ZipInfo, length: int) -> torch.UntypedStorage:
        if member.compress_type == ZIP_STORED:
            start = self._start_of(member, length)
            result: torch.UntypedStorage = self._bytes[start : start + length]
            return result
        self.mapped = False
        data = bytearray(self._unpack(member))
        return (
            torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
            if data
            else torch.empty(0, dtype=torch.uint8, device="cpu").untyped_storage()
        )

    def _unpack(self, member: zipfile.ZipInfo) -> bytes:
        """What is in a compressed member, read through once before it is kept: a broken one takes no memory."""
        require(member.compress_type == ZIP_DEFLATED, "a member of the archive is compressed in an unusual way")
        self._unpacked -= member.file_size
        require(self._unpacked >= 0, "it unpacks to far more than its size")
        checksum = length = 0
        with self._archive.open(member) as opened:
            while block := opened.read(_BLOCK):
                checksum, length = zlib.crc32(block, checksum), length + len(block)
        require(checksum == member.CRC and length == member.file_size)
        return self._archive.read(member)

    def _start_of(self, member: zipfile.ZipInfo, length: int) -> int:
        """Where the bytes of a member begin."""
        self._opened.seek(member.header_offset)
        header = self._opened.read(_LOCAL_HEADER)
        more = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = member.header_offset + _LOCAL_HEADER + more
        require(len(header) == _LOCAL_HEADER and start + length <= self.size)
        return start
