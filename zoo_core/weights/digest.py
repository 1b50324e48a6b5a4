"""SHA-256 digests: how to take one, when one agrees with another, and when a file need not be hashed again."""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FULL = 64
"""Hex digits of a whole SHA-256."""
_PATIENCE = 8

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


def is_digest(text: str) -> bool:
    """Whether this is 8 to 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def is_full(digest: str | None) -> bool:
    """Whether this is a whole digest and not a prefix of one."""
    return digest is not None and len(digest) == FULL and is_digest(digest)


def agrees(got: str, expected: str) -> bool:
    """Whether a whole digest is the expected one, or begins with the expected prefix.

    Example:
        >>> agrees("5c106cde" + "0" * 56, "5c106cde")
        True
    """
    return bool(expected) and got.startswith(expected)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hex.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Stamp:
    """What the file system says of a file that was hashed: while all of it is the same, so are the bytes.

    The change time is in it because, unlike the modification time, a program cannot set it back.

    Attributes:
        size: In bytes.
        mtime_ns: Time of the last write.
        ctime_ns: Time of the last change of content or metadata.
        inode: Number of the file in its file system.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file as it is now.

        Raises:
            OSError: There is no such file.
        """
        status = path.lstat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def __str__(self) -> str:
        return f"{self.size} {self.mtime_ns} {self.ctime_ns} {self.inode}"

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """The stamp that ``str`` wrote.

        Raises:
            ValueError: The text is not four numbers.
        """
        size, mtime_ns, ctime_ns, inode = (int(word) for word in text.split())
        return cls(size, mtime_ns, ctime_ns, inode)


def steady_digest(path: Path) -> tuple[str, Stamp]:
    """The SHA-256 of a file and its stamp, from a moment in which nobody changed it.

    Raises:
        OSError: The file cannot be read, or never holds still.
    """
    for _ in range(_PATIENCE):
        before = Stamp.of(path)
        digest = sha256_of(path)
        if Stamp.of(path) == before:
            return digest, before
    raise OSError(errno.EBUSY, "changes while it is read", str(path))
