"""A large file over several connections at once: they take pieces of it, and the pieces are given out in order.

So the partial file grows from its start as over a single line, is hashed as it grows, and can be continued whatever
happens. What arrives before its turn waits in files beside it, which outlive the process as it does. There are more
lines only while bytes are waited for. One that fails gives its piece back and is not used again, so that a server which
wants fewer gets fewer; only when the last one has failed, all has.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from zoo_core.utils import no_follow
from zoo_core.weights.transport.failures import Failure, StaleRange, Transient

if TYPE_CHECKING:
    from zoo_core.weights.download.partial import Partial
    from zoo_core.weights.transport.policy import Policy
    from zoo_core.weights.transport.source_protocol import Source

_AHEAD = 2
"""How many pieces more than there are lines may be begun: what one slow line can make us keep twice."""
_BLOCK = 1 << 20
_HANDFUL = 1 << 20
_AT_FIRST = 2
_HUNGRY = 0.01
"""Seconds without a byte to give out after which one more line is used: a fast network keeps two of them busy."""
_TICK = 0.5
_FAREWELL = 1.0
"""Seconds that we wait for lines to end; one that is stalled ends by itself later, and does no harm."""


@dataclass(eq=False)
class _Piece:
    """A piece of a file, bytes ``begin`` to ``end``, of which those before ``got`` have arrived.

    The first ``waiting`` of them are in a file, if they came before their turn, and the rest in ``blocks``.
    """

    number: int
    begin: int
    end: int
    got: int
    place: Path
    waiting: int = 0
    blocks: deque[bytes] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, blocks: list[bytes]) -> None:
        """Put bytes into the file; into memory where the disk does not take them."""
        count = sum(map(len, blocks))
        if not self.blocks:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            with contextlib.suppress(OSError), os.fdopen(no_follow.descriptor(self.place, flags), "ab") as file:
                file.writelines(blocks)
                file.flush()
                if file.tell() == self.waiting + count:
                    self.waiting += count
                    return
        self.blocks.extend(blocks)  # and then all the rest of the piece

    def kept(self, at: int) -> bytes:
        """Bytes of the file, from that one of the whole on; none when it is not what it was."""
        with contextlib.suppress(OSError), os.fdopen(no_follow.descriptor(self.place), "rb") as file:
            file.seek(at - self.begin)
            return file.read(min(_BLOCK, self.begin + self.waiting - at))
        return b""

    def discard(self) -> None:
        """Remove the file, as far as that can be."""
        with contextlib.suppress(OSError):
            no_follow.unlink(self.place)


class Pieces:
    """The rest of a file in pieces, over several connections. Use it in a ``with`` statement, and once.

    Args:
        source: Where the file is; each line is another source like it.
        partial: What there is of it; pieces of a process that has ended are taken from beside it.
        total: The length of the whole file.
        etag: Its strong ETag: every piece must have it.
        policy: How many lines, and how large a piece.
    """

    def __init__(self, source: Source, partial: Partial, *, total: int, etag: str, policy: Policy) -> None:
        # As many pieces for each line, so that none is left with one more than the others in the end.
        start = self._begin = partial.length
        rounds = math.ceil((total - start) / policy.piece / policy.connections)
        length = math.ceil((total - start) / (rounds * policy.connections))
        self._pieces = _cut(partial, total, length)
        self._free = deque(piece for piece in self._pieces if piece.got < piece.end)
        self._source = source
        self._etag = etag
        self._policy = policy
        self._alive = partial.touch
        self._given_out = 0
        self._missing = sum(piece.end - piece.got for piece in self._pieces)
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
        if not self._lines and self._missing:
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
        at = self._begin
        for piece in self._pieces:
            while at < piece.end:
                block = self._next(piece, at)
                yield block
                at += len(block)
            piece.discard()
            with self._room:
                self._given_out += 1
                self._room.notify_all()

    def _next(self, piece: _Piece, at: int) -> bytes:
        with piece.lock:  # what waits in its file came before what comes to memory
            if piece.begin + piece.waiting > at:
                if block := piece.kept(at):
                    return block
                raise StaleRange("a piece that waited for its turn is not there any more")
        with self._arrived:
            while not piece.blocks:
                if piece.begin + piece.waiting > at:
                    break
                if self._failure is not None:
                    raise self._failure
                missing = self._missing
                if not self._arrived.wait(_HUNGRY if self._spare else _TICK):
                    self._start()
                self._show_life(missing)
            if piece.blocks and piece.begin + piece.waiting <= at:
                return piece.blocks.popleft()
        return self._next(piece, at)

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
        with piece.lock:
            if piece.number == self._given_out:
                piece.blocks.extend(blocks)
            elif blocks:
                piece.keep(blocks)
        with self._arrived:
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


def _cut(partial: Partial, total: int, length: int) -> list[_Piece]:
    """The rest of a file in pieces; those that wait beside it are whole pieces of their own."""
    bounds, at = list[tuple[int, int, int]](), partial.length
    waiting = [(begin, path, no_follow.status(path).st_size) for begin, path in partial.pieces()]
    for begin, path, size in waiting:
        if begin + size <= at or begin + size > total or not size:
            no_follow.unlink(path)
            continue
        bounds += [(first, min(first + length, begin), 0) for first in range(at, begin, length)]
        bounds.append((begin, begin + size, size))
        at = begin + size
    bounds += [(first, min(first + length, total), 0) for first in range(at, total, length)]
    return [
        _Piece(number, begin, end, begin + size, partial.piece(begin), size)
        for number, (begin, end, size) in enumerate(bounds)
    ]
