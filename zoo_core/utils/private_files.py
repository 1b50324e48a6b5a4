"""Files in folders that others may have filled: written without following links, and believed only from this user."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from zoo_core.errors import ZooWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def new_beside(path: Path) -> Iterator[Path]:
    """An empty file of a random name beside ``path``, made by us alone, to be renamed; removed if it is still there.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_anew(path: Path, text: str) -> None:
    """Put a text in the place of whatever is there, whole or not at all; a link is replaced and never followed.

    Raises:
        OSError: The folder cannot be written.
    """
    with new_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def believed(path: str, instead: str) -> bool:
    """Whether something that was found upward from the current folder is this user's, and only this user's to write.

    What is not is passed over, as git does, with one warning.

    Args:
        path: What was found.
        instead: What the user sets to have it all the same.
    """
    reason = _foreign(path)
    if reason:
        _warn(path, reason, instead)
    return not reason


def _foreign(path: str) -> str:
    if not hasattr(os, "geteuid"):
        return ""
    for each, what in ((path, "it"), (os.path.dirname(path), "its folder")):  # noqa: PTH120 - called on every use
        try:
            status = os.stat(each)  # noqa: PTH116
        except OSError as error:
            return f"{what} cannot be looked at: {error.strerror}"
        is_sticky_folder = each != path and status.st_mode & stat.S_ISVTX
        if each == path and status.st_uid != os.geteuid():
            return f"{what} belongs to another user"
        if status.st_mode & stat.S_IWOTH and not is_sticky_folder:
            return f"{what} can be written by every user"
    return ""


@lru_cache(maxsize=256)
def _warn(path: str, reason: str, instead: str) -> None:
    warnings.warn(
        f"{path} is passed over: {reason}; {instead}={path} has it obeyed all the same", ZooWarning, stacklevel=5
    )
