"""Work beside a growing file in a background thread of its own: hashing and the disk cost no time of the network."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_AT_ONCE = 1 << 18
"""Bytes that are worth a change of threads."""
_WAITING = 16 << 20
"""Bytes that may wait to be hashed; who brings more waits too."""


class Background:
    """Does one thing after another in a background thread; in between, where this process may have no more threads."""

    def __init__(self) -> None:
        self._work: deque[tuple[Future[None], int]] = deque()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "zoo-background")

    @property
    def is_idle(self) -> bool:
        """Whether all that was to be done has been."""
        return all(work.done() for work, _ in self._work)

    def do(self, act: Callable[[], None], count: int = 0) -> None:
        """Do something after what was given before.

        Args:
            act: What to do.
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
                self.wait()
                self._pool = None
        if self._pool is None:
            act()

    def wait(self) -> None:
        """Return when all has been done.

        Raises:
            OSError: What was done has failed.
        """
        while self._work:
            self._work.popleft()[0].result()

    def close(self) -> None:
        """Begin nothing more, and wait for what has been begun."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class BackgroundHash(Background):
    """The SHA-256 of blocks, taken in a background thread while more of them arrive.

    They are hashed from the memory in which they arrived: reading them again from the file would cost as much as
    writing them. No block may be changed after it was added.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hasher = hashlib.sha256()
        self._blocks: list[bytes | memoryview] = []
        self._count = 0

    def add(self, block: bytes | memoryview) -> None:
        """Hash a block after those before it."""
        self._blocks.append(block)
        self._count += len(block)
        if self._count >= _AT_ONCE:
            blocks, count = self._blocks, self._count
            self._blocks, self._count = [], 0
            self.do(lambda: self._update(blocks), count)

    def update(self, block: bytes | memoryview) -> None:
        """Hash a block now; only for what :meth:`do` does."""
        self._hasher.update(block)

    def hexdigest(self) -> str:
        """The digest of all blocks so far.

        Raises:
            OSError: What was done has failed.
        """
        self.wait()
        self._update(self._blocks)
        self._blocks, self._count = [], 0
        return self._hasher.hexdigest()

    def _update(self, blocks: list[bytes | memoryview]) -> None:
        for block in blocks:
            self._hasher.update(block)
