"""Whether a file that was found is private, so that it is obeyed: this user's, and theirs alone to write."""

from __future__ import annotations

import os
import stat
import warnings
from functools import lru_cache

from zoo_core.errors import ZooWarning


def believed(path: str, instead: str) -> bool:
    """Whether something found upward from the current folder is private: this user's, and theirs alone to write.

    What is not is passed over, as git does, with one warning.

    Args:
        path: What was found.
        instead: What the user sets to have it all the same.
    """
    reason = _foreign(path)
    if reason:
        pass_over(path, reason, instead)
    return not reason


def _foreign(path: str) -> str:
    """Why a file is not private: another user owns it, or may write to it or its folder; empty where it is."""
    if not hasattr(os, "geteuid"):
        return ""
    for each, what in ((path, "it"), (os.path.dirname(path), "its folder")):  # noqa: PTH120 - called on every use
        try:
            status, link = os.stat(each), os.lstat(each)  # noqa: PTH116
        except OSError as error:
            return f"{what} cannot be looked at: {error.strerror}"
        is_sticky_folder = each != path and status.st_mode & stat.S_ISVTX
        if each == path and {status.st_uid, link.st_uid} != {os.geteuid()}:  # of a link, both
            return f"{what} belongs to another user"
        if status.st_mode & stat.S_IWOTH and not is_sticky_folder:
            return f"{what} can be written by every user"
    return ""


@lru_cache(maxsize=256)
def pass_over(path: str, reason: str, instead: str) -> None:
    """Warn, once, of a file that is not obeyed since it is not private: others than this user may have written it."""
    warnings.warn(
        f"{path} is passed over: {reason}; {instead}={path} has it obeyed all the same", ZooWarning, stacklevel=5
    )
