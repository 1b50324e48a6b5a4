"""What processes that are dead have left unfinished in a folder: removed when no process can be writing there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from typing import TYPE_CHECKING

from zoo_core.utils import no_follow
from zoo_core.weights.download.ownership import locked_folder, own_name, surely_dead
from zoo_core.weights.download.partial import claim, remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OURS = re.compile(
    r"(?P<partial>\.(?P<stem>.+)\.\w{0,40}-[0-9]+-[0-9a-f]+\.partial)(\.origin|\.at-[0-9]+)?", re.DOTALL | re.ASCII
)
_LONGEST_STEM = 40
"""Characters of a stem in the name of a folder, so that there is room for the owner's."""


def sweep(folder: Path, *, whole: str = "", spare: float = 0.0) -> int:
    """Remove the unfinished downloads in a folder whose processes are dead, and what is left of others; nothing else.

    Args:
        folder: Where they are.
        whole: The stem of a file that has arrived, so that none of its partials is of use.
        spare: Seconds since the last write for which the partials of other stems are spared: their downloads may yet
            be continued.

    Returns:
        How many bytes that freed.
    """
    freed = 0
    with contextlib.suppress(OSError):
        matches = filter(None, map(_OURS.fullmatch, no_follow.names(folder)))
        for name, stem in dict.fromkeys((match["partial"], match["stem"]) for match in matches):
            freed += _swept(folder / name, 0.0 if stem == whole else spare)
    return freed


def _swept(path: Path, spare: float) -> int:
    """The bytes that were freed by removing an unfinished download, if its process is dead, with all beside it."""
    freed = 0
    with contextlib.suppress(OSError):
        try:
            status = no_follow.status(path)
        except FileNotFoundError:
            if surely_dead(path):  # else it is in the middle of being renamed, perhaps
                remove(path)
            return 0
        if time.time() - status.st_mtime < spare or (file := claim(path)) is None:
            return 0
        with file:
            freed = status.st_size
            remove(path)
    return freed


@contextlib.contextmanager
def unfinished_folder(parent: Path, stem: str) -> Iterator[Path]:
    """A folder for unfinished files, removed after the block; those that dead processes left are removed before it.

    Those are of the same stem, and left on this machine by processes of this user that were killed.

    Raises:
        OSError: It cannot be made.
    """
    stem = stem[:_LONGEST_STEM]
    for each in filter(is_unfinished, parent.iterdir()):
        if each.name.startswith(f".{stem}.") and surely_dead(each):
            with contextlib.suppress(OSError), locked_folder(each) as is_ours:
                if is_ours:
                    shutil.rmtree(each, ignore_errors=True)
    path = parent / own_name(stem)
    path.mkdir()
    try:
        with locked_folder(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def is_unfinished(path: Path) -> bool:
    """Whether a path is an unfinished folder: this user's, no link to one, and with a name as partial files have it."""
    status = path.lstat()
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISDIR(status.st_mode) and bool(_OURS.fullmatch(path.name))
