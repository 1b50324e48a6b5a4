"""Work that follows a growing file in a thread of its own: hashing and the disk cost no time of the network."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does something in a background thread with each stretch of a file, in order, while more of it is written.

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


_AT_ONCE = 1 << 18
"""Bytes that are worth a change of threads."""
_WAITING = 16 << 20
"""Bytes that may wait to be hashed; who brings more waits too."""


class BackgroundHash:
    """The SHA-256 of blocks, taken in a background thread while more of them arrive.

    They are hashed from the memory in which they arrived: reading them again from the file would cost as much as
    writing them. No block may be changed after it was added.
    """

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._blocks: list[bytes | memoryview] = []
        self._count = 0
        self._work: deque[tuple[Future[None], int]] = deque()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "zoo-background")

    def add(self, block: bytes | memoryview) -> None:
        """Hash a block after those before it."""
        self._blocks.append(block)
        self._count += len(block)
        if self._count >= _AT_ONCE:
            blocks, count = self._blocks, self._count
            self._blocks, self._count = [], 0
            self.do(lambda: self._update(blocks), count)

    def do(self, act: Callable[[], None], count: int = 0) -> None:
        """Do something in the same thread, after what was added before.

        Args:
            act: What to do, such as :meth:`update` with what a file holds.
            count: How many bytes it keeps in memory.

        Raises:
            OSError: What was done before has failed.
        """
        while self._work and (self._work[0][0].done() or sum(each for _, each in self._work) > _WAITING):
            self._work.popleft()[0].result()
        if self._pool is not None:
            try:
                self._work.append((self._pool.submit(act), count))
            except RuntimeError:  # this process may have no more threads
                self._wait()
                self._pool = None
        if self._pool is None:
            act()

    def update(self, block: bytes | memoryview) -> None:
        """Hash a block now; only for what :meth:`do` does."""
        self._hasher.update(block)

    def hexdigest(self) -> str:
        """The digest of all blocks so far.

        Raises:
            OSError: What was done has failed.
        """
        self._wait()
        self._update(self._blocks)
        self._blocks, self._count = [], 0
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Begin nothing more, and wait for what has been begun."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _update(self, blocks: list[bytes | memoryview]) -> None:
        for block in blocks:
            self._hasher.update(block)

    def _wait(self) -> None:
        while self._work:
            self._work.popleft()[0].result()
