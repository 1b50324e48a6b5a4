"""A large file over several connections at once: they take pieces of it, and the pieces are given out in order.

So the partial file grows from its start as over a single line, is hashed as it grows, and can be continued whatever
happens. There are more lines only while bytes are waited for. One that fails gives its piece back and is not used
again, so that a server which wants fewer gets fewer; only when the last one has failed, all has.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo_core.weights.transport.failures import Failure, StaleRange, Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from zoo_core.weights.transport.policy import Policy
    from zoo_core.weights.transport.reply import Source

_AHEAD = 2
"""How many pieces more than there are lines may be begun: what one slow line can make us hold in memory."""
_HANDFUL = 1 << 20
_AT_FIRST = 2
_HUNGRY = 0.01
"""Seconds without a byte to give out after which one more line is used: a fast network keeps two of them busy."""
_TICK = 0.5
_FAREWELL = 1.0
"""Seconds that we wait for lines to end; one that is stalled ends by itself later, and does no harm."""


@dataclass(eq=False)
class _Piece:
    """Bytes ``begin`` to ``end`` of the file, of which those before ``got`` have arrived."""

    number: int
    begin: int
    end: int
    got: int
    blocks: deque[bytes] = field(default_factory=deque)


class Pieces:
    """The rest of a file, over several lines. Use it in a ``with`` statement, and once.

    Args:
        source: Where the file is; each line is another source like it.
        start: The first byte to fetch.
        total: The length of the whole file.
        etag: Its strong ETag: every piece must have it.
        policy: How many lines, and how large a piece.
        alive: Called now and then while bytes arrive that cannot be given out yet.
    """

    def __init__(
        self, source: Source, *, start: int, total: int, etag: str, policy: Policy, alive: Callable[[], None]
    ) -> None:
        # As many pieces for each line, so that none is left with one more than the others in the end.
        rounds = math.ceil((total - start) / policy.piece / policy.connections)
        length = math.ceil((total - start) / (rounds * policy.connections))
        begins = range(start, total, length)
        self._pieces = [_Piece(*item, min(item[1] + length, total), item[1]) for item in enumerate(begins)]
        self._free = deque(self._pieces)
        self._source = source
        self._etag = etag
        self._policy = policy
        self._alive = alive
        self._given_out = 0
        self._missing = total - start
        self._failure: Failure | None = None
        self._over = False
        lock = threading.Lock()
        self._arrived, self._room = threading.Condition(lock), threading.Condition(lock)
        self._shown = time.monotonic()
        self._failed = 0
        self._lines: list[threading.Thread] = []
        self._spare = min(policy.connections, len(self._pieces))

    def __enter__(self) -> Iterator[bytes]:
        with self._room:
            for _ in range(_AT_FIRST):
                self._start()
        if not self._lines:
            raise StaleRange("this process may start no thread")
        return self._in_order()

    def _start(self) -> None:
        """Use one more line, if there is one to spare."""
        if self._spare:
            line = threading.Thread(target=self._work, name="zoo-line", daemon=True)
            self._spare -= 1
            with contextlib.suppress(RuntimeError):  # this process may have no more threads
                line.start()
                self._lines.append(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._room:
            self._over = True
            self._room.notify_all()
        deadline = time.monotonic() + _FAREWELL
        for line in self._lines:
            line.join(max(0.0, deadline - time.monotonic()))

    def _in_order(self) -> Iterator[bytes]:
        """The bytes, as soon as all before them have been given out.

        Raises:
            Failure: Of the last line that failed, or one after which the pieces cannot be used.
        """
        for piece in self._pieces:
            at = piece.begin
            while at < piece.end:
                block = self._next(piece)
                yield block
                at += len(block)
            with self._room:
                self._given_out += 1
                self._room.notify_all()

    def _next(self, piece: _Piece) -> bytes:
        with self._arrived:
            while not piece.blocks:
                if self._failure is not None:
                    raise self._failure
                missing = self._missing
                if not self._arrived.wait(_HUNGRY if self._spare else _TICK):
                    self._start()
                self._show_life(missing)
            return piece.blocks.popleft()

    def _show_life(self, missing: int) -> None:
        """Tell those who wait for us that bytes arrive, although the file does not grow."""
        if self._missing < missing and time.monotonic() - self._shown > _TICK:
            self._shown = time.monotonic()
            self._alive()

    def _work(self) -> None:
        """One line: take a piece, fill it, take the next."""
        source, piece = self._source.another(), None
        try:
            while (piece := self._take()) is not None:
                self._fill(piece, source)
        except Failure as failure:
            self._stop(failure, piece)
        except Exception as error:  # noqa: BLE001 - who waits for this line must hear of whatever it died of
            self._stop(StaleRange(f"{type(error).__name__}: {error}"), piece)
        finally:
            source.close()

    def _take(self) -> _Piece | None:
        """The next piece, as soon as it is not too far ahead; None when nothing is missing."""
        with self._room:
            while self._missing and not self._over:
                if self._free and self._free[0].number < self._given_out + len(self._lines) + _AHEAD:
                    return self._free.popleft()
                self._room.wait()
            return None

    def _fill(self, piece: _Piece, source: Source) -> None:
        with source.read(piece.got, self._etag, piece.end) as reply:
            if reply.start != piece.got or reply.etag != self._etag:
                raise StaleRange("the rest of the file is not sent in pieces")
            held: list[bytes] = []
            count, since = 0, time.monotonic()
            try:
                for block in reply.blocks:
                    if self._over:
                        return
                    held.append(block)
                    count += len(block)
                    if piece.got + count > piece.end:
                        held.clear()
                        raise StaleRange("sends more than the piece that was requested")
                    if count >= _HANDFUL or time.monotonic() - since > _TICK / 5:
                        self._hand_over(piece, held)
                        count, since = 0, time.monotonic()
            finally:
                self._hand_over(piece, held)
            if piece.got < piece.end and not self._over:
                raise Transient("the connection closed before the end of a piece")

    def _hand_over(self, piece: _Piece, blocks: list[bytes]) -> None:
        """Give blocks to who puts them in order; many at a time, since each time costs a change of threads."""
        count = sum(map(len, blocks))
        with self._arrived:
            piece.blocks.extend(blocks)
            piece.got += count
            self._missing -= count
            self._arrived.notify()
            if not self._missing:
                self._room.notify_all()
        blocks.clear()

    def _stop(self, failure: Failure, piece: _Piece | None) -> None:
        """Give a piece back to the other lines; without any, or where it is hopeless, the failure is everybody's."""
        with self._room:
            self._failed += 1
            if piece is not None and piece.got < piece.end:
                self._free.appendleft(piece)
            if self._failed == len(self._lines) or not isinstance(failure, Transient):
                self._failure = failure
                self._over = True
            self._arrived.notify()
            self._room.notify_all()
