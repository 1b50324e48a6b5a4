"""Bring weights that the cache does not have: from elsewhere on this machine, or from their sources."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import DigestMismatch, FetchError, Offline, Untrusted
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.mirrors import digest_at_mirror
from zoo_core.weights.cache.reuse import find_elsewhere
from zoo_core.weights.download.from_sources import Order, bring, bring_after, unreachable
from zoo_core.weights.download.lock import turn
from zoo_core.weights.transport.failures import Failure
from zoo_core.weights.transport.hub import declared_digest, looks_like_hub
from zoo_core.weights.transport.progress import progress_bar
from zoo_core.weights.transport.urls import file_name, needs_network
from zoo_core.weights.trust.pins import pin_of_file
from zoo_core.weights.trust.rules import Trust, require_online, require_trust

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.weights.request import Artefact, Wanted
    from zoo_core.weights.transport.policy import Policy


def fetch_wanted(wanted: Wanted, *, progress: bool | None, trust: Trust | None, policy: Policy) -> Artefact:
    """Weights that are not in the cache, brought there now; from their other files where nobody has the first one.

    Args:
        wanted: What is wanted.
        progress: Whether to show a progress bar; None means on a terminal.
        trust: ``"first-use"`` accepts what nothing vouches for.
        policy: How patient to be.

    Raises:
        WeightsError: They could not be had or trusted; see :func:`~zoo_core.weights.obtain`.
    """
    failures: list[FetchError | Offline | Untrusted] = []
    for one in _by_file(wanted):
        try:
            return _fetch_file(one, progress=progress, trust=trust, policy=policy)
        except (FetchError, Offline, Untrusted) as failure:
            failures.append(failure)
    if len(failures) > 1 and isinstance(failures[0], FetchError):
        raise unreachable(wanted.name, [attempt for failure in failures for attempt in _attempts(failure)])
    raise failures[0]


def _by_file(wanted: Wanted) -> list[Wanted]:
    """The same weights, once for each file that may be the one that is wanted, the likeliest first."""
    known = wanted.pin.sha256
    if not digests.is_full(known):
        return [replace(wanted, weights=file, pin=pin_of_file(file)) for file in wanted.weights.files]
    possible = [file for file in wanted.weights.files if known.startswith(file.sha256)]
    return [replace(wanted, weights=file) for file in sorted(possible, key=lambda file: not file.sha256)]


def _attempts(failure: FetchError | Offline | Untrusted) -> list[tuple[str, str]]:
    untrusted = 'nothing vouches for its bytes; trust="first-use" takes it'
    return [*getattr(failure, "attempts", ()), *((url, untrusted) for url in getattr(failure, "urls", ()))]


def _fetch_file(wanted: Wanted, *, progress: bool | None, trust: Trust | None, policy: Policy) -> Artefact:
    file, size = file_name(wanted.weights.urls[0]), wanted.weights.size
    if found := find_elsewhere(wanted.weights.urls, wanted.pin.sha256, size):
        return _adopted(wanted, *found, file, policy)
    if not settings.offline():
        declared = _with_declared_digest(wanted, policy)
        if declared is not wanted and (found := find_elsewhere(wanted.weights.urls, declared.pin.sha256, size)):
            return _adopted(declared, *found, file, policy)
        wanted = declared
    urls = _reachable(wanted)
    require_trust(urls, wanted.pin.sha256, trust)
    with progress_bar(file, size, progress) as advance:
        return _together(
            wanted, replace(_order(wanted, urls, file, policy), advance=advance, trusted=trust is not None)
        )


def _reachable(wanted: Wanted) -> tuple[str, ...]:
    """The urls that may be asked: offline, only those that need no socket."""
    urls = tuple(url for url in wanted.urls if not (settings.offline() and needs_network(url)))
    if not urls:
        require_online(wanted.name, wanted.urls)
    return urls


def _with_declared_digest(wanted: Wanted, policy: Policy) -> Wanted:
    """With the whole digest that a mirror or the Hugging Face hub declares, where nobody else knows it."""
    pin = wanted.pin
    if digests.is_full(pin.sha256):
        return wanted
    answers = (digest_at_mirror(base, wanted.name, policy) for base in settings.mirrors())
    digest = next((answer for answer in answers if digests.agrees(answer, pin.sha256)), "")
    if not (digest := digest or _declared_by_hub(wanted, policy)):
        return wanted
    if not digest.startswith(pin.sha256):
        raise DigestMismatch(
            f"the digest of {wanted.name} has moved",
            expected=f"sha256 {pin.sha256}... (the card)",
            got=f"sha256 {digest} (declared by its server)",
            done="nothing was downloaded",
            expected_digest=pin.sha256,
            got_digest=digest,
            source=wanted.urls[0],
        )
    return replace(wanted, pin=replace(pin, sha256=digest, strength=pin.strength_if_declared))


def _declared_by_hub(wanted: Wanted, policy: Policy) -> str:
    """The digest that the hub declares; its silence matters only where nothing else is known."""
    attempts = []
    for url in wanted.own_urls:
        if looks_like_hub(url):
            try:
                if digest := declared_digest(url, policy):
                    return digest
            except Failure as failure:
                attempts.append((url, str(failure)))
    if attempts and not wanted.pin.sha256:
        raise unreachable(wanted.name, attempts)
    return ""


def _together(wanted: Wanted, order: Order) -> Artefact:
    """Bring it, unless another process does so first."""
    wanted.cache.make()
    lock = order.folder / f"{order.stem}.lock"
    patience = order.policy.patience
    with turn(lock, ready=lambda: wanted.arrived() is not None, signs=order.signs, patience=patience) as failed:
        if arrived := wanted.arrived():
            return arrived
        brought = bring_after(order, failed)
    return wanted.keep(brought.path, brought.sha256, brought.url)


def _order(wanted: Wanted, urls: tuple[str, ...], file: str, policy: Policy) -> Order:
    return Order(
        label=wanted.name,
        urls=urls,
        folder=wanted.cache.arriving,
        stem=f"{wanted.pin.sha256[:16] or _unknown(urls)}-{file}",
        sha256=wanted.pin.sha256,
        size=wanted.weights.size,
        place=lambda digest: wanted.cache.place(digest, file),
        read_only=True,
        policy=policy,
    )


def _unknown(urls: tuple[str, ...]) -> str:
    """What sets bytes of which nobody knows the digest apart from others of the same file name."""
    return "unknown-" + hashlib.sha256("\n".join(urls).encode()).hexdigest()[:16]


def _adopted(wanted: Wanted, path: Path, digest: str, file: str, policy: Policy) -> Artefact:
    """Take in a file that another tool downloaded: as a link, or as a copy where that cannot be."""
    wanted.cache.make()
    linked = wanted.cache.link(path, digest, file)
    if linked is None:
        linked = bring(replace(_order(wanted, (path.as_uri(),), file, policy), sha256=digest)).path
    return wanted.keep(linked, digest, path.as_uri())
