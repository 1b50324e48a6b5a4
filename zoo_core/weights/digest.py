"""SHA-256 digests: how to take one, when one agrees with another, and when a file need not be hashed again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import write_anew

FULL = 64
"""Hex digits of a whole SHA-256."""
_PATIENCE = 8

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


def is_digest(text: str) -> bool:
    """Whether this is a SHA-256 or a prefix of one: 8 to 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def is_full(digest: str | None) -> bool:
    """Whether this is a whole SHA-256 digest and not a prefix of one."""
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
    """What the file system says of a file whose digest was taken: while it is the same, so are the bytes.

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
        return cls.from_status(no_follow.status(path))

    @classmethod
    def from_status(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file of which the system says that."""
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


def noted_stamp(path: Path, digest: str) -> Stamp | None:
    """The stamp of a file of which this user has noted that its SHA-256 digest is that one; None for any other."""
    note = _digest_note(path)
    try:
        noted, _, text = no_follow.read_text(note).partition(" ") if note else ("", "", "")
        return Stamp.parse(text) if noted == digest else None
    except (OSError, ValueError):
        return None


def has_noted(path: Path, digest: str) -> bool:
    """Whether this user's notes say that a file had that digest; also where there is no folder for such notes."""
    return _digest_note(path) is None or noted_stamp(path, digest) is not None


def note_stamp(path: Path, digest: str, stamp: Stamp) -> None:
    """Note the SHA-256 digest of a file, so that it need not be hashed again: in this user's folder, not beside it."""
    note = _digest_note(path)
    if note is not None and noted_stamp(path, digest) != stamp:
        with contextlib.suppress(OSError):  # it is hashed again, then
            no_follow.make_folder(note.parent)
            write_anew(note, f"{digest} {stamp}")


def _digest_note(path: Path) -> Path | None:
    """Where this user's note of the SHA-256 digest of a file is; None without a home folder."""
    from platformdirs import user_state_path

    try:
        folder = user_state_path("zoo") / "stamps"
    except RuntimeError:  # of a container whose user is only a number
        return None
    name = hashlib.sha256(os.fsencode(path)).hexdigest()
    return no_follow.real(folder) / name if folder.is_absolute() else None


def steady_digest(path: Path) -> tuple[str, Stamp]:
    """The SHA-256 of a plain file and its stamp, from a moment in which it did not change.

    Args:
        path: In a folder that is free of links, see :mod:`zoo_core.utils.no_follow`.

    Raises:
        OSError: The file cannot be read, or never holds still.
    """
    for _ in range(_PATIENCE):
        before = Stamp.of(path)
        with os.fdopen(no_follow.descriptor(path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if Stamp.of(path) == before:
            return digest, before
    raise OSError(errno.EBUSY, "changes while it is read", str(path))
