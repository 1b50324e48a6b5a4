"""Bring a file from the first source that has the right bytes: partial, digest, rename, in that order, always."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from zoo_core.errors import DigestMismatch, FetchError, WeightsError
from zoo_core.weights import digest as digests
from zoo_core.weights.download.disk import refuse_odd, require_space
from zoo_core.weights.download.lock import ENOUGH
from zoo_core.weights.download.ownership import partials
from zoo_core.weights.download.partial import Partial, Stolen
from zoo_core.weights.download.transfer import Transfer
from zoo_core.weights.formats.sniff import describe
from zoo_core.weights.transport.failures import Permanent, Transient, WrongContent
from zoo_core.weights.transport.policy import Policy
from zoo_core.weights.transport.sources import source_of
from zoo_core.weights.transport.urls import host_of, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from zoo_core.weights.download.last_words import Words
    from zoo_core.weights.transport.reply import Source

_CHANCES = 2
"""How often a source may send the whole file: once, and once again when it was not the right one."""


@dataclass(frozen=True)
class Order:
    """What to bring, and how to know it.

    Attributes:
        label: What to call it in messages.
        urls: Where it is, in the order to try.
        folder: Where the partial file goes; on one file system with the place of the final one.
        stem: What names its partial files and its lock.
        sha256: The whole digest, a prefix of it, or ``""`` to accept the first bytes that come.
        size: Its length in bytes, when known.
        place: The final path for a file of that digest.
        read_only: Whether the final file may not be written.
        trusted: Whether the user takes what comes, also over plain http.
        policy: How patient to be.
        advance: Told the bytes so far and the total, or None.
    """

    label: str
    urls: tuple[str, ...]
    folder: Path
    stem: str
    sha256: str
    size: int | None
    place: Callable[[str], Path]
    read_only: bool = False
    trusted: bool = False
    policy: Policy = field(default_factory=Policy)
    advance: Callable[[int, int | None], None] = lambda _done, _total: None

    def signs(self) -> object:
        """What changes while another process is bringing the same file."""
        seen = []
        for path in partials(self.folder, self.stem):
            try:
                status = path.stat()
            except OSError:
                continue
            seen.append((path.name, status.st_size, status.st_mtime_ns))
        return seen


@dataclass(frozen=True)
class Brought:
    """What was brought.

    Attributes:
        path: Where it is now, proven.
        sha256: Its whole digest.
        size: Its length in bytes.
        url: Where it came from.
    """

    path: Path
    sha256: str
    size: int
    url: str


def bring(order: Order) -> Brought:
    """Bring a file, prove it and publish it.

    Raises:
        DigestMismatch: Bytes came, but no source had the right ones.
        FetchError: No source could be read.
        CacheError: The folder cannot be written.
    """
    try:
        return _bring(order, Partial.open(order.folder, order.stem))
    except Stolen:
        return _already(order) or _bring(order, Partial.new(order.folder, order.stem))


def bring_after(order: Order, failed: Sequence[Words]) -> Brought:
    """Bring a file that other processes, for which we waited, may have tried in vain.

    After one of them, which was as patient as it should be, each source gets a single attempt; after two, none: many
    processes give up together, and not one after the other.

    Args:
        order: What to bring.
        failed: What those processes said of it.

    Raises:
        DigestMismatch: Bytes came, but no source had the right ones.
        FetchError: No source could be read.
        CacheError: The folder cannot be written.
    """
    if len(failed) >= ENOUGH:
        done = "two processes tried, while this one waited for them"
        attempts, got = failed[-1].attempts, failed[-1].got
        raise _mismatch(order, attempts, got, done) if got else unreachable(order.label, attempts, done)
    return bring(replace(order, policy=replace(order.policy, attempts=1)) if failed else order)


def _already(order: Order) -> Brought | None:
    """What another process published under the name that we were about to use, when it is right."""
    if not digests.is_full(order.sha256):
        return None
    final = order.place(order.sha256)
    refuse_odd(final)
    try:
        got, stamp = digests.steady_digest(final)
    except OSError:
        return None
    return Brought(final, got, stamp.size, order.urls[0]) if got == order.sha256 else None


def _bring(order: Order, arriving: Partial) -> Brought:
    attempts: list[tuple[str, str]] = []
    wrong: list[tuple[str, str]] = []
    with arriving as partial:
        if order.size is not None:
            require_space(order.folder, order.size - partial.length)
        for url in order.urls:
            try:
                if _from_one(url, partial, order, wrong):
                    sha256, size = partial.digest, partial.length
                    return Brought(partial.publish(order.place(sha256), read_only=order.read_only), sha256, size, url)
                attempts.append((url, wrong[-1][1]))
            except (Permanent, Transient) as failure:
                attempts.append((url, str(failure)))
    if wrong:
        done = "tried each source again from the first byte; nothing was kept"
        raise _mismatch(order, attempts, wrong[-1][0], done)
    done = "what had arrived is kept apart, and the next try continues it" if partial.length else "nothing arrived"
    raise unreachable(order.label, attempts, done)


def _from_one(url: str, partial: Partial, order: Order, wrong: list[tuple[str, str]]) -> bool:
    """Whether that source had the right bytes; it has two chances from zero, and one more to continue what is there."""
    source = source_of(url, order.policy, proven=order.trusted or digests.is_full(order.sha256))
    try:
        from_zero, chances = 0, min(_CHANCES, order.policy.attempts)
        while from_zero < chances:
            from_zero += partial.length == 0
            # What was put together from pieces, and is wrong, is asked for once more over a single line.
            policy = replace(order.policy, connections=1) if from_zero == _CHANCES else order.policy
            transfer = Transfer(
                source, partial, sha256=order.sha256, size=order.size, policy=policy, advance=order.advance
            )
            try:
                transfer.run()
            except WrongContent as failure:
                wrong.append((partial.digest, str(failure)))
                from_zero += 0 if failure.again else chances
            else:
                if not order.sha256 or digests.agrees(partial.digest, order.sha256):
                    return True
                wrong.append((partial.digest, _came(partial, source)))
            partial.restart()
        return False
    finally:
        source.close()


def _came(partial: Partial, source: Source) -> str:
    """What came, in words, for somebody who wonders where it was exchanged."""
    what = f"sha256 {partial.digest}, {partial.length:,} bytes, {describe(partial.head())}"
    return f"{what} ({source.route})" if source.route else what


def _mismatch(order: Order, attempts: list[tuple[str, str]], got: str, done: str) -> WeightsError:
    return DigestMismatch(
        f"wrong bytes for {order.label}",
        expected=f"sha256 {order.sha256}" + (f", {order.size:,} bytes" if order.size is not None else ""),
        got=_listed(attempts),
        done=done,
        cause="the file was replaced upstream, or something on the way changes it (a proxy, a login page)",
        hint="ask whoever serves it; if the new file is right, its new digest belongs in the card or the lock",
        expected_digest=order.sha256,
        got_digest=got,
        source=attempts[-1][0],
        attempts=tuple(attempts),
    )


def unreachable(name: str, attempts: list[tuple[str, str]], done: str = "nothing arrived") -> WeightsError:
    """The error for a file that no source gave.

    Args:
        name: What was wanted.
        attempts: Each url and what was wrong with it.
        done: What became of it.
    """
    hosts = tuple(dict.fromkeys(host_of(url) for url, _ in attempts))
    return FetchError(
        f"cannot fetch {name} from {', '.join(hosts) or 'anywhere'}",
        got=_listed(attempts),
        done=done,
        hint="try again, set ZOO_MIRROR or ZOO_REWRITE to another host, set ZOO_OFFLINE=1 to use the cache alone, "
        "or build it untrained with weights=None",
        attempts=tuple(attempts),
        hosts=hosts,
    )


def _listed(attempts: list[tuple[str, str]]) -> str:
    return "; ".join(f"{shown(url)}: {reason}" for url, reason in attempts)
