"""Many processes that need one file: one fetches it, the others wait; the lock on the open partial is the proof."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Self

import filelock

from zoo_core.utils import private_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO


_POLL = 0.05
_LOCKS = 4


@contextlib.contextmanager
def turn(
    lock: Path, *, ready: Callable[[], bool], progress: Callable[[], object], patience: float
) -> Iterator[Callable[[], bool]]:
    """Wait until this process owns the download, or the file is there, or its owner makes no progress.

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


def _first_of_node() -> bool:
    """Whether this process should own the download where there are no locks: any but a later rank of a node.

    ``torchrun`` and its like number the processes of a node in ``LOCAL_RANK``.
    """
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")


class _Holder:
    """A lock file that says which process owns a download, ours or another. Use it in a ``with`` statement.

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
                private_files.unlink(Path(self._lock.lock_file))  # while it is ours, so that no other process has it
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
            if not _is_ours(private_files.status(Path(self._lock.lock_file))):
                raise PermissionError(errno.EPERM, "the lock is not ours", self._lock.lock_file)

    def _look(self) -> None:
        """Keep the other's file open: when it is let go, it is removed."""
        with contextlib.suppress(OSError):
            if self._seen is None and not self._lock.is_locked:
                self._seen = private_files.descriptor(Path(self._lock.lock_file))
            elif self._seen is not None and not os.fstat(self._seen).st_nlink:
                self.released = True
                self._close()

    def _close(self) -> None:
        if self._seen is not None:
            os.close(self._seen)
            self._seen = None


def _settled(holder: _Holder, *, ready: Callable[[], bool], progress: Callable[[], object], patience: float) -> bool:
    """Whether the wait for a download's owner is over: it is our turn, the file is there, or there are no locks."""
    seen, since = progress(), time.monotonic()
    while not ready():
        try:
            if holder.acquire():
                return True
        except (OSError, NotImplementedError):  # a file system without locks, or one that is read-only
            if _first_of_node():
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
ORIGIN = ".origin"
PIECE = ".at-"
"""Before the number of the first byte of a piece that waits beside a partial file for those before it."""
_OURS = re.compile(
    r"(?P<partial>\.(?P<stem>.+)\.\w{0,40}-[0-9]+-[0-9a-f]+\.partial)(\.origin|\.at-[0-9]+)?", re.DOTALL | re.ASCII
)
FLAGS = os.O_APPEND | getattr(os, "O_BINARY", 0)
"""How to open one: to append, so that one which was truncated has the wrong length in the end, and no hole."""
_LONGEST_STEM = 40
"""Characters of a stem in the name of a folder, so that there is room for the owner's."""
_NOBODY = 0
_SELF = secrets.token_hex(4)
"""Tells this process from a dead one that had the same number, as the first process of a container always has."""
_ABANDONED = 60.0
_SURELY_ABANDONED = 600.0


def partials(folder: Path, stem: str) -> list[Path]:
    """Partial files of a download, of any owner, to be locked or taken over, the longest first."""
    prefix = f".{stem}."
    result = []
    with contextlib.suppress(OSError):
        for name in private_files.names(folder):
            if name.startswith(prefix) and name.endswith(SUFFIX):
                with contextlib.suppress(OSError):
                    status = private_files.status(folder / name)
                    result += [(status.st_size, name)] if stat.S_ISREG(status.st_mode) else []
    return [folder / name for _, name in sorted(result, reverse=True)]


def belongings(path: Path) -> list[Path]:
    """What the owner of a partial file keeps beside it: the note of its origin, and pieces that wait their turn."""
    with contextlib.suppress(OSError):
        starts = (f"{path.name}{ORIGIN}", f"{path.name}{PIECE}")
        return [path.with_name(name) for name in private_files.names(path.parent) if name.startswith(starts)]
    return []


def own_name(stem: str) -> str:
    """A name for a partial file that says which process owns it, and that no other will choose."""
    return f".{stem}.{_host()}-{os.getpid()}-{_SELF}{secrets.token_hex(4)}{SUFFIX}"


def give_up(path: Path) -> None:
    """Give up the ownership of a partial file to the next process, although this one lives on."""
    stem, _, owner = path.name.removesuffix(SUFFIX).rpartition(".")
    host, _, token = owner.split("-")
    move(path, path.with_name(f"{stem}.{host}-{_NOBODY}-{token}{SUFFIX}"))


def move(path: Path, new: Path) -> bool:
    """Rename a partial file and what is kept beside it, as its owner changes; False when another was quicker."""
    try:
        private_files.replace(path, new)
    except OSError:
        return False
    move_belongings(path, new)
    return True


def move_belongings(path: Path, new: Path) -> None:
    """Rename what is kept beside a partial file that another process owns now."""
    for each in belongings(path):
        with contextlib.suppress(OSError):
            private_files.replace(each, new.with_name(new.name + each.name.removeprefix(path.name)))


def remove(path: Path) -> None:
    """Remove a partial file whose owner needs it no more, with what is kept beside it.

    Raises:
        OSError: It cannot be removed.
    """
    for each in (path, *belongings(path)):
        private_files.unlink(each)


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
        matches = filter(None, map(_OURS.fullmatch, private_files.names(folder)))
        for name, stem in dict.fromkeys((match["partial"], match["stem"]) for match in matches):
            freed += _swept(folder / name, 0.0 if stem == whole else spare)
    return freed


def _swept(path: Path, spare: float) -> int:
    """The bytes that were freed by removing a partial with all that belongs to it, if its owner is dead."""
    freed = 0
    with contextlib.suppress(OSError):
        try:
            status = private_files.status(path)
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
    """A folder for files that are being written; it is removed after the block where it is still there.

    So are those of the same stem that processes of this user left on this machine when they were killed.

    Raises:
        OSError: It cannot be made.
    """
    stem = stem[:_LONGEST_STEM]
    for each in filter(is_unfinished, parent.iterdir()):
        if each.name.startswith(f".{stem}.") and surely_dead(each):
            with contextlib.suppress(OSError), _locked_folder(each) as is_ours:
                if is_ours:
                    shutil.rmtree(each, ignore_errors=True)
    path = parent / own_name(stem)
    path.mkdir()
    try:
        with _locked_folder(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def is_unfinished(path: Path) -> bool:
    """Whether a path is a folder of this user, and no link to one, with a name as partial files have it."""
    status = path.lstat()
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISDIR(status.st_mode) and bool(_OURS.fullmatch(path.name))


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[bool | None]:
    """Hold the lock of a folder: whether it is ours, so that no process writes there; None where there are no locks."""
    if fcntl is None:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    """The name of this machine in the names of partial files, which say who owns them."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40]


def claim(path: Path) -> FileIO | None:
    """Open a partial file as its new owner if the old one is dead: it holds no lock, and was long silent or ended."""
    try:
        descriptor = private_files.descriptor(path, os.O_RDWR | FLAGS)
    except OSError:
        return None
    file = os.fdopen(descriptor, "r+b", buffering=0)
    status = os.fstat(descriptor)
    try:
        are_ours = all(_is_ours(each) for each in (status, *map(private_files.status, belongings(path))))
    except OSError:  # another process is quicker
        are_ours = False
    if are_ours and time.time() - status.st_mtime >= _silence_of_the_dead(path, locked=lock(file)):
        return file
    file.close()
    return None


def _is_ours(status: os.stat_result) -> bool:
    """Whether this user owns a lock file or partial file: a plain one, which has no other name."""
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _silence_of_the_dead(path: Path, *, locked: bool | None) -> float:
    """Seconds without a write after which the process that owns a partial file counts as dead.

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
    """Whether the owner of a partial file ran here and has ended, or has given it up, so that no one writes to it."""
    host, _, rest = path.name.removesuffix(SUFFIX).rpartition(".")[2].partition("-")
    pid, _, token = rest.partition("-")
    if host != _host() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return not token.startswith(_SELF)
    return not _lives(int(pid))


def _lives(pid: int) -> bool:
    """Whether the process that owns a partial file is alive, by its number."""
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


def lock(file: FileIO | int) -> bool | None:
    """Whether the lock on an open partial file or folder is ours, so that we own it; None where that is not known."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
