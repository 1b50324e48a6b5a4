"""Fetch a file from the first source that has the right bytes: partial, digest, rename, in that order, always."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zoo_core.errors import DigestMismatch, FetchError, WeightsError
from zoo_core.weights import digest as digests
from zoo_core.weights.download.disk import refuse_odd, require_space
from zoo_core.weights.download.ownership import Stolen, turn
from zoo_core.weights.download.partial import Partial, progress
from zoo_core.weights.download.progress_bar import progress_bar
from zoo_core.weights.download.transfer import Transfer
from zoo_core.weights.formats.sniff import describe
from zoo_core.weights.request import Artefact, Request
from zoo_core.weights.transport.failures import Permanent, Transient, WrongContent
from zoo_core.weights.transport.sources import source_of
from zoo_core.weights.transport.urls import host_of, shown

Advance = Callable[[int, int | None], None]

_CHANCES = 2
"""How often a source may send the whole file: once, and once again when it was not the right one."""


def fetch_once(
    request: Request,
    existing: Callable[[], Artefact | None],
    keep: Callable[[Artefact], Artefact] = lambda artefact: artefact,
) -> Artefact:
    """Fetch a file from the first of its sources that has it, unless another process does so first.

    Who waited in vain for another process, which was as patient as it should be, tries each source once.

    Args:
        request: What to fetch.
        existing: The file, when it has arrived.
        keep: Writes down what has arrived, before those who wait or come later look for it.

    Raises:
        DigestMismatch: Bytes came, but no source had the right ones.
        FetchError: No source could be read.
        CacheError: The folder cannot be written.
    """
    result: list[Artefact] = []

    def ready() -> bool:
        if artefact := existing():
            result.append(artefact)
        return bool(result)

    lock = request.folder / f".{request.stem}.lock"
    patience = request.policy.patience
    with turn(lock, ready=ready, progress=lambda: progress(request.folder, request.stem), patience=patience) as in_vain:
        if result or ready():
            return result[0]
        with progress_bar(request.file, request.size, request.progress) as advance:
            if in_vain():
                request = replace(request, policy=replace(request.policy, attempts=1))
            return keep(download(request, advance))


def download(request: Request, advance: Advance = lambda _done, _total: None) -> Artefact:
    """Download a file from the first source that has the right bytes, and publish it.

    Args:
        request: What to download.
        advance: Told the bytes so far and the total, or None.

    Raises:
        DigestMismatch: Bytes came, but no source had the right ones.
        FetchError: No source could be read.
        CacheError: The folder cannot be written.
    """
    try:
        return _download(request, Partial.open(request.folder, request.stem), advance)
    except Stolen:
        return _published(request) or _download(request, Partial.new(request.folder, request.stem), advance)


def _published(request: Request) -> Artefact | None:
    """The right file, where another process has fetched it from a source and renamed it meanwhile; None otherwise."""
    if not digests.is_full(request.sha256):
        return None
    final = request.final(request.sha256)
    refuse_odd(final)
    try:
        got, stamp = digests.steady_digest(final)
    except OSError:
        return None
    return _artefact(request, final, got, stamp.size, request.urls[0]) if got == request.sha256 else None


def _artefact(request: Request, path: Path, sha256: str, size: int, url: str) -> Artefact:
    """The artefact for a file that one of the sources tried has given."""
    return Artefact(path, sha256, size, shown(url), request.strength, fetched=True)


def _download(request: Request, opened: Partial, advance: Advance) -> Artefact:
    """Try the sources of a file one after another, until one has the right bytes; then publish it."""
    attempts: list[tuple[str, str]] = []
    wrong: list[tuple[str, str]] = []
    with opened as partial:
        if request.size is not None:
            require_space(request.folder, request.size - partial.length)
        for url in request.urls:
            try:
                if _from_one(url, partial, request, wrong, advance):
                    sha256, size = partial.digest, partial.length
                    final = partial.publish(request.final(sha256), read_only=request.read_only)
                    return _artefact(request, final, sha256, size, url)
                attempts.append((url, wrong[-1][1]))
            except (Permanent, Transient) as failure:
                attempts.append((url, str(failure)))
    if wrong:
        raise _mismatch(request, attempts, wrong[-1][0])
    done = "what had arrived is kept apart, and the next try continues it" if partial.length else "nothing arrived"
    raise unreachable(request.name, attempts, done)


def _from_one(url: str, partial: Partial, request: Request, wrong: list[tuple[str, str]], advance: Advance) -> bool:
    """Whether one source had the right bytes; it has two chances from zero, one more to continue what is there."""
    source = source_of(url, request.policy, proven=request.proven)
    try:
        from_zero, chances = 0, min(_CHANCES, request.policy.attempts)
        while from_zero < chances:
            from_zero += partial.length == 0
            # What was put together from pieces, and is wrong, is requested once more over a single line.
            policy = replace(request.policy, connections=1) if from_zero == _CHANCES else request.policy
            transfer = Transfer(
                source, partial, sha256=request.sha256, size=request.size, policy=policy, advance=advance
            )
            try:
                transfer.run()
            except WrongContent as failure:
                wrong.append((partial.digest, str(failure)))
                from_zero += 0 if failure.again else chances
            else:
                if not request.sha256 or digests.agrees(partial.digest, request.sha256):
                    return True
                what = f"sha256 {partial.digest}, {partial.length:,} bytes, {describe(partial.head())}"
                wrong.append((partial.digest, f"{what} ({source.route})" if source.route else what))
            partial.restart()
        return False
    finally:
        source.close()


def _mismatch(request: Request, attempts: list[tuple[str, str]], got: str) -> WeightsError:
    """The error for a file of which no source had the right bytes."""
    return DigestMismatch(
        f"wrong bytes for {request.name}",
        expected=f"sha256 {request.sha256}" + (f", {request.size:,} bytes" if request.size is not None else ""),
        got=_listed(attempts),
        done="tried each source again from the first byte; nothing was kept",
        cause="the file was replaced upstream, or something on the way changes it (a proxy, a login page)",
        hint="ask the publisher; if the new file is right, its new digest belongs in the card or the lock",
        expected_digest=request.sha256,
        got_digest=got,
        source=attempts[-1][0],
        attempts=tuple(attempts),
    )


def unreachable(name: str, attempts: list[tuple[str, str]], done: str = "nothing arrived") -> WeightsError:
    """The error for a download from sources of which none could be read, with what was wrong with each.

    Args:
        name: What was requested.
        attempts: Each url and what was wrong with it.
        done: What became of it.
    """
    hosts = tuple(dict.fromkeys(host_of(url) for url, _ in attempts))
    return FetchError(
        f"cannot fetch {name} from {', '.join(hosts) or 'anywhere'}",
        got=_listed(attempts),
        done=done,
        hint="try again, set ZOO_MIRROR or ZOO_REWRITE to another host, set ZOO_OFFLINE=1 to use the cache alone, "
        "or build it untrained with weights=None (--weights none)",
        attempts=tuple(attempts),
        hosts=hosts,
    )


def _listed(attempts: list[tuple[str, str]]) -> str:
    """The sources that a download tried, each with what was wrong there, in words."""
    return "; ".join(f"{shown(url)}: {reason}" for url, reason in attempts)
