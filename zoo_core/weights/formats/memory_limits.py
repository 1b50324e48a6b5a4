"""Limits of memory: what need not be broken, and would take far more memory than its file, is not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from zoo_core.errors import Unreadable
from zoo_core.weights.formats.plain_pickle import NotPlain, require

LONGEST_HEADER = 100_000_000
_TAIL = 65_536 + 22
_FREE = 32 << 20
"""Bytes that the directory of an archive, or the header of a file, may take once it is read."""
_LEAST = _FREE >> 7
"""Bytes of JSON that never take more."""
_FREE_VIEW = 1 << 24
"""Bytes that a tensor may have beyond those of its storage, as one that was expanded has."""
_ELSEWHERE = 0xFFFFFFFF
"""What stands for a number that is in the larger record of a large archive."""


class TooMuchMemory(NotPlain):
    """Data that may be whole, and is beyond the limit of memory: it would take far more than its file."""


def require_small_directory(file: Path) -> None:
    """Refuse a zip archive whose directory alone would take more memory than the limit.

    Raises:
        NotPlain: It would.
        OSError: The file cannot be read.
    """
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - _TAIL))
        tail = opened.read()
    end = tail.rfind(b"PK\x05\x06")
    require(end >= 0, "the end of the archive is missing: the file was cut off")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    start = tail.rfind(b"PK\x06\x06", 0, end)
    if start >= 0:  # the directory of an archive of more than 4 GB
        length = max(length if length != _ELSEWHERE else 0, int.from_bytes(tail[start + 40 : start + 48], "little"))
    require(length * 12 <= max(_FREE, size), "the directory of the archive is larger than its content")


def require_small_header(file: BinaryIO) -> None:
    """Refuse a safetensors file whose header alone would take more memory than the limit.

    Raises:
        TooMuchMemory: It would.
        OSError: The file cannot be read.
    """
    length = int.from_bytes(file.read(8), "little")
    if _LEAST < length <= LONGEST_HEADER:
        require_small_json(file.read(length), os.fstat(file.fileno()).st_size)


def require_small_json(text: bytes, size: int) -> None:
    """Refuse JSON, such as a header, that would take far more memory than its file.

    Raises:
        TooMuchMemory: It would.

    Example:
        >>> require_small_json(b"[" + b"[]," * 10**6 + b"[]]", 3 * 10**6)
        Traceback (most recent call last):
        ...
        zoo_core.weights.formats.memory_limits.TooMuchMemory: its JSON would take far more memory than the file
    """
    # at most: a container takes 64 bytes, and a comma 128, for the key, the value and their place
    needed = 64 * (text.count(b"[") + text.count(b"{")) + 128 * text.count(b",") if len(text) > _LEAST else 0
    if needed > max(_FREE, size):
        raise TooMuchMemory("its JSON would take far more memory than the file")


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is for want of memory: of a limit here, or of the machine.

    Example:
        >>> lacks_memory(MemoryError()), lacks_memory(ValueError("no number"))
        (True, False)
    """
    while error is not None:
        # torch's allocator raises a RuntimeError
        if isinstance(error, MemoryError | TooMuchMemory) or "allocate memory" in str(error):
            return True
        error = error.__cause__
    return False


def not_read(file: Path, error: Exception) -> Unreadable:
    """The error for a file that is not read for want of memory: nothing is known to be wrong with it."""
    is_limit = isinstance(error, TooMuchMemory)
    return Unreadable(
        f"{file} is not read",
        done="nothing was loaded",
        cause=str(error) if is_limit else "it takes more memory than this process can have",
        hint=None if is_limit else "free some, or read it on a larger machine",
        path=file,
    )


def require_modest(view: int, storage: int) -> None:
    """Refuse a tensor that is a view far larger than its storage, as one that repeats few numbers is.

    Raises:
        NotPlain: It is.
    """
    require(view <= _FREE_VIEW + 2 * storage, "a tensor in it repeats few numbers very often")
