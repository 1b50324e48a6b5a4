"""Why a process failed, told to those that waited for it, so that they need not all find out by themselves.

The words are written into the lock file just before it is removed: who waits has that file open, and nobody else ever
sees them, nor do they stay.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from zoo_core.errors import DigestMismatch, FetchError
from zoo_core.weights.transport.urls import shown

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_LONGEST = 1 << 16


@dataclass(frozen=True)
class Words:
    """Why a process failed.

    Attributes:
        attempts: Each url that it asked and what was wrong with it.
        got: The digest of the wrong bytes that came; ``""`` when none did.
    """

    attempts: list[tuple[str, str]]
    got: str


def leave(lock: Path, error: BaseException | None) -> None:
    """Write into a lock that we hold, and are about to remove, why we failed, when that concerns those who wait."""
    if not isinstance(error, FetchError | DigestMismatch) or os.name == "nt":  # there it cannot be removed
        return
    attempts = [(shown(url), reason) for url, reason in getattr(error, "attempts", ())]
    text = json.dumps({"attempts": attempts, "got": getattr(error, "got_digest", "")}).encode()
    if attempts and len(text) <= _LONGEST:
        descriptor = os.open(lock, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(text)


class Listener:
    """Hears the last words of those that hold a lock while we wait for it. Use it in a ``with`` statement.

    Args:
        lock: The lock file.
        heard: Where to add them.
    """

    def __init__(self, lock: Path, heard: list[Words]) -> None:
        self.heard = heard
        self._lock = lock
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def attend(self) -> None:
        """Begin to listen to who holds the lock now."""
        if self._descriptor is None:
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
                self._descriptor = os.open(self._lock, flags)

    def hear(self) -> None:
        """Take note of what the holder said, if it has said anything."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            if text := os.read(self._descriptor, _LONGEST):
                said = json.loads(text)
                self.heard.append(Words([(str(url), str(reason)) for url, reason in said["attempts"]], said["got"]))
            elif os.fstat(self._descriptor).st_nlink:
                return  # it is still at work
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
