"""Many processes that need one file: one has the ownership of its download, which a lock proves; the others wait."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Self

import filelock

from zoo_core.errors import CacheError
from zoo_core.utils import no_follow

_POLL = 0.05
_LOCKS = 4
OWNED = re.compile(
    r"(?P<partial>\.(?P<stem>.+)\.\w{0,40}-[0-9]+-[0-9a-f]+\.partial)(\.origin|\.at-[0-9]+)?", re.DOTALL | re.ASCII
)
"""Names of partial files and unfinished folders, which say who owns them, and of what is kept beside them."""
_LONGEST_STEM = 40
"""Characters of a stem in the name of a folder, so that there is room for the owner's."""
FLAGS = os.O_APPEND | getattr(os, "O_BINARY", 0)
"""How to open a partial file: to append, so that a truncated one has the wrong length in the end, and no hole."""
_ABANDONED = 60.0
_SURELY_ABANDONED = 600.0
"""Seconds of silence after which the owner of a partial file counts as dead: with locks, and without."""


@contextlib.contextmanager
def turn(
    lock: Path, *, ready: Callable[[], bool], progress: Callable[[], object], patience: float
) -> Iterator[Callable[[], bool]]:
    """Wait for the ownership of a download, until the file is there, or its owner makes no progress.

    Gives a function that says whether we waited in vain: who held the lock has let it go, and the file is not there.

    Args:
        lock: The lock file. When its holder is given up, the next in line takes a second one, and so on, so that a
            suspended process does not make all the others download at once.
        ready: Whether the file has arrived, so that there is nothing left to do.
        progress: What changes as long as a holder is at work, such as the size of its partial file.
        patience: Seconds without such a change after which a holder is no longer waited for.
    """
    holders: list[_Holder] = []
    with contextlib.ExitStack() as held:
        for number in range(_LOCKS):
            holder = held.enter_context(_Holder(lock.with_name(f"{lock.name}{number or ''}")))
            holders.append(holder)
            if _settled(holder, ready=ready, progress=progress, patience=patience):
                break
        yield lambda: any(holder.released for holder in holders)


class _Holder:
    """A lock file that says which process has the ownership of a download. Use it in a ``with`` statement.

    Attributes:
        released: Whether another process held it and has let it go. One that was killed leaves the file where it is.
    """

    def __init__(self, path: Path) -> None:
        self.released = False
        self._lock = filelock.FileLock(path)
        self._seen: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        with contextlib.suppress(OSError):
            if self._lock.is_locked:
                no_follow.unlink(Path(self._lock.lock_file))  # while it is ours, so that no other process has it
        with contextlib.suppress(OSError, NotImplementedError):
            self._lock.release()

    def acquire(self) -> bool:
        """Whether the lock is ours now.

        Raises:
            OSError: There are no locks here.
        """
        self._require_own()
        try:
            self._lock.acquire(timeout=_POLL, poll_interval=_POLL)
        except filelock.Timeout:
            self._look()
            return False
        self._look()
        self._close()
        return True

    def _require_own(self) -> None:
        """Use no lock file of another user, nor one that has a second name: it is as if there were no locks."""
        with contextlib.suppress(FileNotFoundError):
            if not is_ours(no_follow.status(Path(self._lock.lock_file))):
                raise PermissionError(errno.EPERM, "the lock is not ours", self._lock.lock_file)

    def _look(self) -> None:
        """Keep the other's file open: when it is let go, it is removed."""
        with contextlib.suppress(OSError):
            if self._seen is None and not self._lock.is_locked:
                self._seen = no_follow.descriptor(Path(self._lock.lock_file))
            elif self._seen is not None and not os.fstat(self._seen).st_nlink:
                self.released = True
                self._close()

    def _close(self) -> None:
        if self._seen is not None:
            os.close(self._seen)
            self._seen = None


def _settled(holder: _Holder, *, ready: Callable[[], bool], progress: Callable[[], object], patience: float) -> bool:
    """Whether the wait for the ownership of a download is over: it is ours, the file is there, or nothing locks."""
    seen, since = progress(), time.monotonic()
    while not ready():
        try:
            if holder.acquire():
                return True
        except (OSError, NotImplementedError):  # a file system without locks, or one that is read-only
            if os.environ.get("LOCAL_RANK", "0") in ("", "0"):  # the first process of a node, as torchrun numbers them
                return True
            time.sleep(_POLL)
        now = progress()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            return False
    return True


try:
    import fcntl
except ImportError:  # Windows: an open file cannot be renamed there, which serves the same end
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
NO_PROCESS = 0
_SELF = secrets.token_hex(4)
"""Distinguishes two processes of one number, of which one is dead: the first of a container always has the same."""


def own_name(stem: str) -> str:
    """A name by which other processes see which one of them has the ownership of a file, and that none will choose."""
    return f".{stem}.{_host()}-{os.getpid()}-{_SELF}{secrets.token_hex(4)}{SUFFIX}"


def _host() -> str:
    """The name of this machine in the names of files that say which process has the ownership of them."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40]


def is_ours(status: os.stat_result) -> bool:
    """Whether this user has the ownership of a lock file or partial file: a plain one, which has no other name."""
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def surely_dead(path: Path) -> bool:
    """Whether the process that owns a file ran here and has ended, or has given up the ownership: it writes no more."""
    host, _, rest = path.name.removesuffix(SUFFIX).rpartition(".")[2].partition("-")
    pid, _, token = rest.partition("-")
    if host != _host() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return not token.startswith(_SELF)
    return not _lives(int(pid))


def _lives(pid: int) -> bool:
    """Whether the process that has the ownership of a file is alive, by its number."""
    if pid == NO_PROCESS:
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


def lock(file: FileIO | int) -> bool | None:
    """Take the lock that proves the ownership of an open file or folder: whether it is ours; None if not known."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def locked_folder(path: Path) -> Iterator[bool | None]:
    """Hold the lock that proves a process's ownership of a folder: whether it is ours; None if there are no locks."""
    if fcntl is None:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unfinished_folder(parent: Path, stem: str) -> Iterator[Path]:
    """A folder in our ownership for unfinished files, removed after the block; those of dead owners, before it.

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
    """Whether a path is an unfinished folder that this user, and by its name a process, has ownership of; no link."""
    status = path.lstat()
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISDIR(status.st_mode) and bool(OWNED.fullmatch(path.name))


class Stolen(CacheError):
    """The ownership of a partial file was lost: another process took the one that wrote it for dead."""


def claim(path: Path, beside: Iterable[Path]) -> FileIO | None:
    """Open a partial file to take over its ownership, if its process is dead: without a lock, and long silent or ended.

    Args:
        path: The partial file.
        beside: What is kept beside it, which has to be of this user too.
    """
    try:
        descriptor = no_follow.descriptor(path, os.O_RDWR | FLAGS)
    except OSError:
        return None
    file = os.fdopen(descriptor, "r+b", buffering=0)
    status = os.fstat(descriptor)
    try:
        are_ours = all(is_ours(each) for each in (status, *map(no_follow.status, beside)))
    except OSError:  # another process is quicker
        are_ours = False
    if are_ours and time.time() - status.st_mtime >= _silence_of_the_dead(path, locked=lock(file)):
        return file
    file.close()
    return None


def _silence_of_the_dead(path: Path, *, locked: bool | None) -> float:
    """Seconds without a new byte before the process that has the ownership of a partial file counts as dead.

    Args:
        path: The partial.
        locked: Whether we have its lock now; None where the file system has no locks.
    """
    if locked is None:
        return _SURELY_ABANDONED
    if not locked:
        return math.inf
    return -math.inf if surely_dead(path) else _ABANDONED
