"""Bring the bytes of one source into a partial file, however often the line drops."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from zoo_core.errors import CacheError
from zoo_core.weights import digest as digests
from zoo_core.weights.download.disk import disk_errors, require_space
from zoo_core.weights.download.pieces import Pieces
from zoo_core.weights.transport.failures import Permanent, StaleRange, Transient, WrongContent

if TYPE_CHECKING:
    from zoo_core.weights.download.partial import Partial
    from zoo_core.weights.transport.policy import Policy
    from zoo_core.weights.transport.source_protocol import Reply, Source

_SHARE = 500
"""An attempt made progress when it brought at least this fraction of the file that no attempt had brought before."""
_HANDFUL = 1 << 20
_AT_LEAST = 1 << 16
"""The same in bytes, where the length of the file is unknown."""


@dataclass
class Transfer:
    """The transfer of the bytes of one source into a partial file, however often the connection drops.

    Args:
        source: Where they come from.
        partial: Where they go; what it holds already is continued.
        sha256: Its digest, or a prefix of it, or ``""``.
        size: How many bytes the whole file has, when that is known.
        policy: How patient to be.
        advance: Called with the bytes so far and the total, or None when it is unknown.
    """

    source: Source
    partial: Partial
    _: KW_ONLY
    sha256: str
    size: int | None
    policy: Policy
    advance: Callable[[int, int | None], None]

    def __post_init__(self) -> None:
        self._origin = hashlib.sha256(self.source.url.encode()).hexdigest()  # a url may hold a password
        self._connections = self.policy.connections
        self._furthest = self.partial.length
        self._total = self.size
        self._conditional = True
        self._probed = False
        self._patience_left = self.policy.retry_after

    def run(self) -> None:
        """Fetch until the file is as long as it should be.

        Raises:
            Permanent: The source cannot serve it.
            Transient: It failed too often in a row.
            WrongContent: What it serves is not as long as the file.
            CacheError: The disk is full or broken.
        """
        budget, failures, restarts = self.policy.attempts, 0, 0
        while True:
            began = time.monotonic()
            try:
                self._attempt()
            except StaleRange as failure:
                self.partial.restart()
                self._probed = True  # a server that is wrong about ranges sends the whole
                restarts += 1
                if restarts > self.policy.attempts:
                    raise Permanent(str(failure)) from failure
            except Transient as failure:
                if self._is_whole():
                    return
                if self._progressed(time.monotonic() - began):
                    budget, failures = self.policy.attempts, 0
                budget, failures = budget - failure.cost, failures + 1
                if budget <= 0 or not self._pause(failure, failures):
                    raise
            else:
                return

    def _is_whole(self) -> bool:
        """Whether nothing is missing, whatever was announced."""
        return digests.is_full(self.sha256) and self.partial.digest == self.sha256

    def _progressed(self, seconds: float) -> bool:
        """Whether the attempt brought what no earlier one had, and no slower than a drip.

        A line that drops every 20 % still finishes, and one that gives a byte at a time is given up.
        """
        enough = max(1, self._total // _SHARE) if self._total else _AT_LEAST
        gained = self.partial.length - self._furthest
        self._furthest = max(self._furthest, self.partial.length)
        return gained >= max(enough, self.policy.min_speed * seconds)

    def _pause(self, failure: Transient, failures: int) -> bool:
        """Wait before the next attempt; False when the server demands a longer wait than the policy allows."""
        seconds = self.policy.pause(failures)
        if failure.wait is not None and failure.wait > seconds:
            if self._patience_left <= 0:
                return False
            seconds = min(failure.wait, self._patience_left)
            self._patience_left -= seconds
        self.partial.touch()
        while seconds > 0:  # those who wait for us must not take a long pause for death
            step = min(seconds, self.policy.patience / 3)
            self.policy.sleep(step)
            self.partial.touch()
            seconds -= step
        return True

    def _attempt(self) -> None:
        if self._is_whole() or (self.size is not None and self.partial.length == self.size):
            return
        if self.size is not None and self.partial.length > self.size:
            self.partial.restart()
        origin, etag = self.partial.origin
        known = etag if origin == self._origin and self._conditional else ""
        if not known and not self.sha256:  # without a digest, nothing else would tell two files spliced together
            self.partial.restart()
        probe = self._probe()
        pace = _Pace(self.policy.split_below)
        with self.source.read(self.partial.length, known, probe) as reply:
            self._accept(reply, known)
            split = self._may_split(reply)
            self._write(pace.until_slow(reply.blocks) if split and not probe else pace.measured(reply.blocks))
            missing = self._total is not None and self.partial.length < self._total
            if missing and not (pace.slow and split) and self.partial.length != probe:
                raise Transient(f"the connection closed after {self.partial.length:,} of {self._total:,} bytes")
        if missing and split and pace.slow:
            self._in_pieces(reply.etag)
        elif missing:
            self._probed = True
            self._attempt()

    def _probe(self) -> int | None:
        """Where to end a first request that only finds out how fast the server is; None for all of the rest.

        So nothing that is on its way has to be thrown away when more lines are to bring the rest.
        """
        waiting = self.partial.pieces()
        worth_it = self.size is not None and (waiting or self.size - self.partial.length >= self.policy.split_from)
        if not worth_it or self._connections == 1 or self._probed:
            return None
        end = self.partial.length + min(_HANDFUL, self.policy.piece)
        return min([end, *(begin for begin, _ in waiting if begin > self.partial.length)])

    def _write(self, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            self._require_short(self.partial.length + len(block))
            self.partial.write(block)
            self.advance(self.partial.length, self._total)

    def _may_split(self, reply: Reply) -> bool:
        """Whether several lines may bring the rest: each must be able to tell that it is of the same file."""
        missing = (self._total or 0) - self.partial.length
        worth_it = missing >= self.policy.split_from or self.partial.pieces()
        return bool(self._connections > 1 and reply.ranges and reply.etag and worth_it)

    def _in_pieces(self, etag: str) -> None:
        with disk_errors(self.partial.path.parent):
            pieces = Pieces(self.source, self.partial, total=self._total or 0, etag=etag, policy=self.policy)
        try:
            with pieces as blocks:
                self._write(blocks)
        except (
            StaleRange,
            Permanent,
            WrongContent,
        ) as failure:  # not in pieces, then; what has arrived is as good as ever
            self._connections = 1
            raise Transient(str(failure), cost=0) from failure

    def _accept(self, reply: Reply, known: str) -> None:
        """Compare what is announced with what is known, and begin again where the answer does."""
        if reply.start and known and reply.etag != known and (reply.etag or not self.sha256):
            raise StaleRange("the file has changed since the first part of it was sent")
        if reply.start != self.partial.length:
            # Many machines of one name may each have a tag of their own for the same bytes. The digest decides.
            self._conditional = self._conditional and not (known and digests.is_full(self.sha256))
            self.partial.restart()
        if self.size is not None and reply.total not in (None, self.size):
            raise WrongContent(f"announces {reply.total:,} bytes and not {self.size:,}")
        self._total = self.size if self.size is not None else reply.total
        if self._total is not None:
            self._require_space(self._total - self.partial.length)
        self.partial.origin = (self._origin, reply.etag)

    def _require_space(self, needed: int) -> None:
        """Refuse what cannot fit; where the length is only what the server says, that is the server's failure."""
        try:
            require_space(self.partial.path.parent, needed)
        except CacheError as error:
            if self.size is not None or needed <= self.policy.unknown_length:
                raise
            raise Permanent(f"announces {needed:,} bytes, which is more than there is room for") from error

    def _require_short(self, length: int) -> None:
        if self._total is not None and length > self._total:
            raise WrongContent(f"sends more than the {self._total:,} bytes that it should have")
        if length > self.policy.unknown_length and self._total is None:  # so much is not requested a second time
            limit = f"{self.policy.unknown_length:,} bytes that zoo takes of a file of unknown size"
            raise WrongContent(f"sends more than the {limit}", again=False)


class _Pace:
    """How fast a source's bytes come over the line, by the time that we waited for them, and not for our own disk.

    Args:
        enough: Bytes a second at which one line is enough.

    Attributes:
        slow: Whether it was slower than that, over the last handful of bytes.
    """

    def __init__(self, enough: float) -> None:
        self.slow = False
        self._enough = enough

    def measured(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The blocks as they are."""
        waited, count, since = 0.0, 0, time.monotonic()
        for block in blocks:
            waited += time.monotonic() - since
            count += len(block)
            self.slow = waited * self._enough > max(count, _HANDFUL)
            yield block
            if count >= _HANDFUL:
                waited, count = 0.0, 0
            since = time.monotonic()
        self.slow = self.slow or waited * self._enough > count

    def until_slow(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The blocks, up to where the line becomes slow."""
        for block in self.measured(blocks):
            yield block
            if self.slow:
                return
