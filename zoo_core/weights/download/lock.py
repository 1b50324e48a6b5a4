"""Many processes that want one file: one fetches it, the others wait for it, within bounds.

The lock only saves work. A holder that is suspended, a file system without locks or a lock left behind costs a wait and
some bytes; what is right is decided by digests and renames.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import filelock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POLL = 0.05
_LOCKS = 4


@contextlib.contextmanager
def turn(
    lock: Path, *, ready: Callable[[], bool], progress: Callable[[], object], patience: float
) -> Iterator[Callable[[], bool]]:
    """Wait until it is our turn, or the file is there, or those before us make no progress.

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


def first_of_node() -> bool:
    """Whether this is the process that should download where there are no locks: any but a later rank of a node.

    ``torchrun`` and its like number the processes of a node in ``LOCAL_RANK``.
    """
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")


class _Holder:
    """A lock file, ours or another process's. Use it in a ``with`` statement.

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
                Path(self._lock.lock_file).unlink()  # while it is ours, so that it is nobody else's
        with contextlib.suppress(OSError, NotImplementedError):
            self._lock.release()

    def acquire(self) -> bool:
        """Whether the lock is ours now.

        Raises:
            OSError: There are no locks here.
        """
        try:
            self._lock.acquire(timeout=_POLL, poll_interval=_POLL)
        except filelock.Timeout:
            self._look()
            return False
        self._look()
        self._close()
        return True

    def _look(self) -> None:
        """Keep the other's file open: when it is let go, it is removed."""
        with contextlib.suppress(OSError):
            if self._seen is None and not self._lock.is_locked:
                flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
                self._seen = os.open(self._lock.lock_file, flags)
            elif self._seen is not None and not os.fstat(self._seen).st_nlink:
                self.released = True
                self._close()

    def _close(self) -> None:
        if self._seen is not None:
            os.close(self._seen)
            self._seen = None


def _settled(holder: _Holder, *, ready: Callable[[], bool], progress: Callable[[], object], patience: float) -> bool:
    """Whether the wait is over for good: it is our turn, the file is there, or there are no locks."""
    seen, since = progress(), time.monotonic()
    while not ready():
        try:
            if holder.acquire():
                return True
        except (OSError, NotImplementedError):  # a file system without locks, or one that is read-only
            if first_of_node():
                return True
            time.sleep(_POLL)
        now = progress()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            return False
    return True
