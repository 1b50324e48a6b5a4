"""Work that follows a growing file in a thread of its own: hashing and the disk cost no time of the network."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Background:
    """Does something with each stretch of a file, in order, some way after it was written.

    Args:
        act: Called with where a stretch begins and where it ends.
        step: How many bytes are worth a change of threads.
        apart: Whether it may run beside the writing; else it is done in between.
    """

    def __init__(self, act: Callable[[int, int], None], *, step: int, apart: bool = True) -> None:
        self._act = act
        self._step = step
        self._begun = 0
        self._work: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, "zoo-background") if apart else None

    def follow(self, length: int) -> None:
        """Begin with what the file has grown by, when that is enough and nothing is being done.

        Args:
            length: How many bytes the file holds now.

        Raises:
            OSError: What was done before has failed.
        """
        if length - self._begun < self._step or (self._work and not self._work.done()):
            return
        self._wait()
        begun, self._begun = self._begun, length
        if self._pool is not None:
            try:
                self._work = self._pool.submit(self._act, begun, length)
            except RuntimeError:  # this process may have no more threads
                self._pool = None
        if self._pool is None:
            self._act(begun, length)

    def catch_up(self, length: int) -> None:
        """Return when all of the file has been seen to.

        Args:
            length: How many bytes the file holds.

        Raises:
            OSError: What was done has failed.
        """
        self._wait()
        if length > self._begun:
            begun, self._begun = self._begun, length
            self._act(begun, length)

    def close(self) -> None:
        """Begin nothing more, and wait for what has been begun."""
        if self._pool is not None:
            self._pool.shutdown()

    def _wait(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.result()
