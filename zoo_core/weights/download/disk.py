"""The disk that files are written to: what can be wrong with it, found out before or said after, and bad files."""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from zoo_core.errors import CacheError, ZooError
from zoo_core.utils import no_follow
from zoo_core.weights.digest import Stamp


def refuse_odd(path: Path) -> None:
    """Refuse a link, a folder or a device on the disk, where a download is to be written.

    Raises:
        CacheError: There is one, or it cannot be told.
    """
    try:
        mode = no_follow.status(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except CacheError:
        raise
    except OSError as error:
        raise read_error(path, error) from error
    refuse_mode(path, mode)


def refuse_mode(path: Path, mode: int) -> None:
    """Refuse to download to a place on the disk where, by its mode, something other than a plain file is.

    Raises:
        CacheError: It is a link, a folder or a device.
    """
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a plain file"
        raise CacheError(
            f"{path} is {kind}",
            expected="a plain file, or nothing",
            done="nothing was written",
            hint="remove it, after a look at who put it there",
            path=path,
        )


def require_space(folder: Path, needed: int) -> None:
    """Refuse to begin what cannot fit on the disk; a file system that reports no size refuses nothing.

    Raises:
        CacheError: The file system has less than ``needed`` bytes left.
    """
    with disk_errors(folder):
        total, _, free = shutil.disk_usage(folder)
    if total and free < needed:
        raise CacheError(
            f"no room for {needed:,} bytes in {folder}",
            got=f"{free:,} bytes free",
            done="nothing was downloaded",
            hint="free some space (`zoo cache prune`), or set ZOO_CACHE to a larger disk",
            path=folder,
            needed=needed,
            free=free,
        )


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk in a block, such as a full one, into a CacheError that names the folder."""
    try:
        yield
    except ZooError:
        raise
    except OSError as error:
        raise disk_error(folder, error) from error


def disk_error(folder: Path, error: OSError) -> CacheError:
    """The CacheError for an error of the disk, such as a full one or a folder without permission to write."""
    return CacheError(
        f"cannot write to {folder}",
        got=error.strerror or str(error),
        done="nothing was left under a final name",
        hint="free some space or mend the permissions, or set ZOO_CACHE to another folder",
        path=folder,
        errno=error.errno,
    )


def read_error(path: Path, error: OSError) -> CacheError:
    """What is wrong with the disk where a file on it cannot be read, as a CacheError."""
    return CacheError(
        f"cannot read {path}",
        got=error.strerror or str(error),
        done="it was left as it is",
        hint="look whether it is there, and mend its permissions",
        path=path,
        errno=error.errno,
    )


def aside(path: Path) -> Path:
    """Where a bad file goes on the disk that it was written to: beside its place there, under another name."""
    return path.with_name(f".{path.name}.bad")


def move_aside(path: Path, stamp: Stamp) -> Path | None:
    """Move a bad file away on the disk it was written to, where a person can look at it; only the last one is kept.

    Args:
        path: The file.
        stamp: Its stamp when it was found bad: one that another process has put there since is left alone.

    Returns:
        Where it is now, or None when it was left alone or the folder cannot be written.
    """
    try:
        if Stamp.of(path) != stamp:
            return None
        no_follow.replace(path, aside(path))
    except OSError:
        return None
    return aside(path)
