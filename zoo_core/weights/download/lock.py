"""Many processes that want one file: one brings it, the others wait for it, within bounds.

The lock only saves work. A holder that is suspended, a file system without locks or a lock left behind costs a wait and
some bytes; what is right is decided by digests and renames.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from zoo_core.weights.download.last_words import Listener, leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from zoo_core.weights.download.last_words import Words

_POLL = 0.05
_LOCKS = 4
ENOUGH = 2
"""Failures of others, while we waited for them, after which we do not try too."""


@contextlib.contextmanager
def turn(
    lock: Path, *, ready: Callable[[], bool], signs: Callable[[], object], patience: float
) -> Iterator[tuple[Words, ...]]:
    """Wait until it is our turn, or the file is there, or those before us show no sign of life.

    Gives the last words of those who failed while we waited, for
    :func:`~zoo_core.weights.download.from_sources.bring_after` to learn from.

    Args:
        lock: The lock file. When its holder is given up, the next in line takes a second one, and so on, so that a
            suspended process does not make all the others download at once.
        ready: Whether the file has arrived, so that there is nothing left to do.
        signs: What changes as long as a holder is at work, such as the size of its partial file.
        patience: Seconds without such a change after which a holder is no longer waited for.
    """
    heard: list[Words] = []
    with contextlib.ExitStack() as held:
        for number in range(_LOCKS):
            holder = filelock.FileLock(lock.with_name(f"{lock.name}{number or ''}"))
            held.push(partial(_release, holder))
            with Listener(Path(holder.lock_file), heard) as listener:
                if _settled(holder, listener, ready=ready, signs=signs, patience=patience):
                    break
        yield tuple(heard)


def first_of_node() -> bool:
    """Whether this is the process that should download where there are no locks: any but a later rank of a node.

    ``torchrun`` and its like number the processes of a node in ``LOCAL_RANK``.
    """
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")


def _release(
    holder: filelock.BaseFileLock,
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    with contextlib.suppress(OSError):
        if holder.is_locked:
            lock = Path(holder.lock_file)
            leave(lock, error)
            lock.unlink()  # while it is ours, so that it is nobody else's
    with contextlib.suppress(OSError, NotImplementedError):
        holder.release()


def _settled(
    holder: filelock.BaseFileLock,
    listener: Listener,
    *,
    ready: Callable[[], bool],
    signs: Callable[[], object],
    patience: float,
) -> bool:
    """Whether the wait is over for good: it is our turn, the file is there, others failed, or there are no locks."""
    seen, since = signs(), time.monotonic()
    while not ready() and len(listener.heard) < ENOUGH:
        try:
            holder.acquire(timeout=_POLL, poll_interval=_POLL)
        except filelock.Timeout:
            listener.hear()
            listener.attend()
        except (OSError, NotImplementedError):  # a file system without locks, or one that is read-only
            if first_of_node():
                return True
            time.sleep(_POLL)
        else:
            listener.hear()
            return True
        now = signs()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            return False
    return True
