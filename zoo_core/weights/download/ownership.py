"""Whose a partial file is: the lock on the open file says it, the process in its name, and how long it was silent.

No one of them is enough: some file systems grant every lock to everybody.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import socket
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be renamed there, which serves the same end
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
ORIGIN = ".origin"
_OURS = re.compile(r"\.(?P<stem>.+)\.\w{0,40}-[0-9]+-[0-9a-f]+\.partial(\.origin)?", re.DOTALL | re.ASCII)
FLAGS = os.O_APPEND | getattr(os, "O_BINARY", 0)
"""How to open one: to append, so that one which somebody truncated has the wrong length in the end, and no hole."""
_NOBODY = 0
_SELF = secrets.token_hex(4)
"""Tells this process from a dead one that had the same number, as the first process of a container always has."""
_ABANDONED = 60.0
_SURELY_ABANDONED = 600.0


def partials(folder: Path, stem: str) -> list[Path]:
    """The files in a folder that are still arriving for that stem, the longest first."""
    prefix = f".{stem}."
    result = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = entry.name.startswith(prefix) and entry.name.endswith(SUFFIX)
            if ours and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    result.append((entry.stat(follow_symlinks=False).st_size, entry.name))
    return [folder / name for _, name in sorted(result, reverse=True)]


def own_name(stem: str) -> str:
    """A name for a partial of that stem that no other process will choose."""
    return f".{stem}.{_host()}-{os.getpid()}-{_SELF}{secrets.token_hex(4)}{SUFFIX}"


def give_up(path: Path) -> None:
    """Leave a partial to whoever wants it next, although this process lives on."""
    stem, _, owner = path.name.removesuffix(SUFFIX).rpartition(".")
    host, _, token = owner.split("-")
    move(path, path.with_name(f"{stem}.{host}-{_NOBODY}-{token}{SUFFIX}"))


def move(path: Path, new: Path) -> bool:
    """Rename a partial and the note of its origin; False when another process was quicker."""
    try:
        path.rename(new)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        path.with_name(path.name + ORIGIN).rename(new.with_name(new.name + ORIGIN))
    return True


def sweep(folder: Path, *, whole: str = "", spare: float = 0.0) -> int:
    """Remove the partials in a folder whose owners are dead, and what is left of others. Nothing else is touched.

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
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names are all that is needed
            if match := _OURS.fullmatch(name):
                path = folder / name.removesuffix(ORIGIN)
                freed += _swept(path, 0.0 if match["stem"] == whole else spare)
    return freed


def _swept(path: Path, spare: float) -> int:
    """The bytes that were freed by removing a partial and the note of its origin, if its owner is dead."""
    freed = 0
    with contextlib.suppress(OSError):
        if path.exists():
            if time.time() - path.lstat().st_mtime < spare or (file := claim(path)) is None:
                return 0
            with file:
                freed = os.fstat(file.fileno()).st_size
                path.unlink(missing_ok=True)
        elif not surely_dead(path):  # in the middle of being renamed, perhaps
            return 0
        path.with_name(path.name + ORIGIN).unlink(missing_ok=True)
    return freed


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40]


def claim(path: Path) -> FileIO | None:
    """The open file if its owner is dead: it holds no lock on the file, and has long been silent or surely ended."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | FLAGS)
    except OSError:
        return None
    file = os.fdopen(descriptor, "r+b", buffering=0)
    status = os.fstat(descriptor)
    is_ours = status.st_nlink == 1 and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())
    if (
        is_ours
        and stat.S_ISREG(status.st_mode)
        and time.time() - status.st_mtime >= _silence_of_the_dead(path, locked=lock(file))
    ):
        return file
    file.close()
    return None


def _silence_of_the_dead(path: Path, *, locked: bool | None) -> float:
    """Seconds without a write after which the owner counts as dead.

    Args:
        path: The partial.
        locked: Whether we have its lock now; None where the file system has no locks.
    """
    if locked is None:
        return _SURELY_ABANDONED
    if not locked:
        return math.inf
    return -math.inf if surely_dead(path) else _ABANDONED


def surely_dead(path: Path) -> bool:
    """Whether the owner of a partial ran here and has ended, or has given it up: nobody else writes to it."""
    host, _, rest = path.name.removesuffix(SUFFIX).rpartition(".")[2].partition("-")
    pid, _, token = rest.partition("-")
    if host != _host() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return not token.startswith(_SELF)
    return not _lives(int(pid))


def _lives(pid: int) -> bool:
    if pid == _NOBODY:
        return False
    if os.name == "nt":  # there, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def lock(file: FileIO) -> bool | None:
    """Whether the file is ours alone; None where this system cannot say."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
