"""The files of a saved folder, opened so that nothing else is: no pipe, no device, and no link to another place."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from zoo_core.errors import Unreadable
from zoo_core.utils.no_follow import real

if TYPE_CHECKING:
    from pathlib import Path

_BLOBS = "blobs"
"""Where the Hugging Face cache keeps what the links in a ``snapshots/<revision>`` folder point to."""


def check_plain_file(path: Path, *, limit: int | None = None) -> None:
    """Refuse what is no ordinary file of the folder that it is in.

    Args:
        path: A file that a saved folder should have.
        limit: The most bytes that it may have.

    Raises:
        FileNotFoundError: There is none.
        Unreadable: It is a link to another place, a pipe, a device, a folder, or too large.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if real(path).parent != real(path.parent).parent.parent / _BLOBS:
            raise _not_plain(path, "a link to another place")
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _not_plain(path, "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device")
    if limit is not None and status.st_size > limit:
        raise _not_plain(path, f"{status.st_size} bytes, and {limit} at most are read")


def _not_plain(path: Path, got: str) -> Unreadable:
    """Error for what is no plain file in a saved folder."""
    return Unreadable(
        f"{path} is not read",
        expected="an ordinary file, as zoo.save writes it",
        got=got,
        done="nothing was opened",
        hint="copy the folder with its files and not with links: cp -rL",
        path=path,
    )
