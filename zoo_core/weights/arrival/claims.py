"""Whose a partial file is: the lock on the open file says it, or else how long the file has been silent."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import socket
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
_ABANDONED = 60.0
_SURELY_ABANDONED = 600.0


def partials(folder: Path, stem: str) -> list[Path]:
    """The files in a folder that are still arriving for that stem, the longest first."""
    prefix = f".{stem}."
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = entry.name.startswith(prefix) and entry.name.endswith(SUFFIX)
            if ours and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    found.append((entry.stat(follow_symlinks=False).st_size, entry.name))
    return [folder / name for _, name in sorted(found, reverse=True)]


def own_name(stem: str) -> str:
    """A name for a partial of that stem that no other process will choose."""
    return f".{stem}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"


def sweep(folder: Path) -> int:
    """Remove every partial in a folder whose owner is dead, whatever it was for.

    Returns:
        How many bytes that freed.
    """
    freed = 0
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        if (file := claim(path)) is not None:
            freed += os.fstat(file.fileno()).st_size
            path.unlink(missing_ok=True)
            path.with_name(path.name + ORIGIN).unlink(missing_ok=True)
            file.close()
    return freed


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40]


def claim(path: Path) -> FileIO | None:
    """The open file if its owner is dead: it holds no lock on the file, and has long been silent unless it ran here."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    file = os.fdopen(descriptor, "r+b", buffering=0)
    if time.time() - os.fstat(descriptor).st_mtime >= _silence_of_the_dead(path, locked=lock(file)):
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
    host = path.name.removesuffix(SUFFIX).rsplit(".", 1)[-1].split("-", 1)[0]
    return -math.inf if host == _host() else _ABANDONED


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
