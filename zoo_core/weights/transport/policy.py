"""How patient a fetch is: its time-outs, retries and pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from zoo_core import settings
from zoo_core.errors import UsageError

DEFAULT_TIMEOUT = 15.0

_LONGEST_TIMEOUT = 86400.0


def checked_timeout(timeout: float) -> None:
    """Refuse what is no time-out for a retry policy: sockets and clocks count no further than they do.

    Raises:
        UsageError: It is not a number of seconds, more than 0 and at most a day.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST_TIMEOUT:
        raise UsageError(f"not a time-out: {timeout!r}", expected="seconds, more than 0 and at most a day")


@dataclass(frozen=True)
class Policy:
    """The retry policy of a fetch: how patient it is. Every number that decides when to give up is here.

    Attributes:
        timeout: Seconds of silence, in connecting or in reading, after which an attempt has failed; also the seconds
            over which ``min_speed`` is measured.
        attempts: Failed attempts in a row, none of which brought anything new, before a source is given up.
        min_speed: Bytes a second below which a server is taken for one that only pretends to answer.
        first_pause: Seconds before the second attempt; each later one waits twice as long, up to ``longest_pause``.
        longest_pause: The longest of those pauses, in seconds.
        retry_after: Seconds that are waited in all because servers requested it.
        unknown_length: Bytes after which a body is cut off when its length is unknown.
        connections: How many lines may bring one file at once, if it is long and its server sends parts of it.
        split_from: How many bytes must be missing for that to be done.
        split_below: Bytes a second below which it is done: over a faster line, one costs less than many.
        piece: About how many bytes a line asks for at once. They are few, since what has arrived of the pieces that are
            being fetched is lost with the process; each costs a round trip.
        sleep: How to wait; tests pass their own.
        jitter: A random factor for each pause, so that many clients do not come back at once.
    """

    timeout: float = DEFAULT_TIMEOUT
    attempts: int = 4
    min_speed: float = 1024.0
    first_pause: float = 0.2
    longest_pause: float = 8.0
    retry_after: float = 20.0
    unknown_length: int = 1 << 30
    connections: int = field(default_factory=settings.connections)
    split_from: int = 32 << 20
    split_below: float = 50e6
    piece: int = 2 << 20
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25)  # noqa: S311 - a pause needs no secret

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            UsageError: A number makes no sense.
        """
        checked_timeout(self.timeout)
        if min(self.attempts, self.connections, self.piece) < 1 or self.unknown_length < 0:
            raise UsageError(
                f"attempts={self.attempts}, connections={self.connections}, piece={self.piece}, "
                f"unknown_length={self.unknown_length}",
                expected="at least one of each, and no negative length",
            )

    def pause(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row."""
        return float(min(self.longest_pause, self.first_pause * 2 ** (failures - 1)) * self.jitter())

    @property
    def patience(self) -> float:
        """Seconds without any new byte after which a process that holds the lock is no longer waited for.

        Longer than a time-out, so that a process whose server is silent is not given up before it has noticed.
        """
        return 1.5 * self.timeout
