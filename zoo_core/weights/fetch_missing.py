"""Fetch weights that the cache does not have: from elsewhere on this machine, or from their sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import DigestMismatch, FetchError, Offline, Untrusted
from zoo_core.utils import no_follow
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.mirrors import digest_at_mirror
from zoo_core.weights.cache.other_caches import digest_in_hub_cache, find_elsewhere
from zoo_core.weights.download.from_sources import download, fetch_once, unreachable
from zoo_core.weights.request import Artefact, Request
from zoo_core.weights.transport.failures import Failure
from zoo_core.weights.transport.http import headers_of
from zoo_core.weights.transport.hub import declared_digest, hub_is_offline, is_hub, looks_like_hub
from zoo_core.weights.transport.urls import below, file_name, needs_network, rewritten
from zoo_core.weights.trust.rules import require_online, require_trust

if TYPE_CHECKING:
    from zoo_core.contract.card import Weights
    from zoo_core.weights.cache.store import Entry

Attempts = list[tuple[str, str]]
"""Urls, and what was wrong with each."""


def fetch_missing(entry: Entry, weights: Weights, request: Request) -> Artefact:
    """Fetch weights that the cache misses; from their other files where the first one cannot be had.

    Raises:
        WeightsError: They could not be had or trusted; see :func:`~zoo_core.weights.obtain`.
    """
    failures: list[FetchError | Offline | Untrusted] = []
    for one in _by_file(weights, request):
        try:
            return entry.keep(_fetch_file(entry, one))
        except (FetchError, Offline, Untrusted) as failure:
            failures.append(failure)
    if len(failures) > 1 and isinstance(failures[0], FetchError):
        raise unreachable(request.name, [attempt for failure in failures for attempt in _attempts(failure)])
    raise failures[0]


def _by_file(weights: Weights, request: Request) -> list[Request]:
    """The request for missing weights, once for each file that they may be in, the likeliest first."""
    known, files = request.sha256, list(weights.files)
    if digests.is_full(known):
        files = sorted((file for file in files if known.startswith(file.sha256)), key=lambda file: not file.sha256)
    return [
        replace(
            request,
            urls=file.urls,
            size=file.size,
            file=file_name(file.urls[0]),
            sha256=known if digests.is_full(known) else file.sha256,
            strength=request.strength if digests.is_full(known) else _strength(file),
        )
        for file in files
    ]


def _strength(file: Weights) -> str:
    """What vouches for a file of missing weights: the first use, where its card has no digest."""
    return "first-use" if file.strength == "none" else file.strength


def _attempts(failure: FetchError | Offline | Untrusted) -> Attempts:
    """The urls at which missing weights were not to be had, each with what was wrong there."""
    untrusted = 'nothing vouches for its bytes; trust="first-use" takes it'
    return [*getattr(failure, "attempts", ()), *((url, untrusted) for url in getattr(failure, "urls", ()))]


def _fetch_file(entry: Entry, request: Request) -> Artefact:
    """Fetch a file of missing weights: from other caches of this machine, or mirrors, or the card's urls."""
    entry.cache.make()
    if result := find_elsewhere(request.urls, request.sha256, request.size):
        return _adopted(entry, request, *result)
    failed: Attempts = []
    declared = _with_declared_digest(entry, request, failed)
    if declared is not request and (artefact := entry.find(declared.sha256, declared.strength)):
        return artefact
    if declared is not request and (result := find_elsewhere(request.urls, declared.sha256, request.size)):
        return _adopted(entry, declared, *result)
    request = replace(declared, urls=_reachable(declared, entry.passed_over()))
    require_trust(request.urls, request.sha256, request.trust)
    try:
        return fetch_once(request, lambda: entry.arrived(request), entry.keep)
    except FetchError as failure:
        if failed:
            raise unreachable(request.name, [*failed, *_attempts(failure)]) from failure
        raise


def _adopted(entry: Entry, request: Request, path: Path, digest: str) -> Artefact:
    """Take in a file of missing weights that another tool downloaded: linked, or copied where that cannot be."""
    if linked := entry.cache.link(path, digest, request.file):
        return Artefact(linked, digest, no_follow.status(linked).st_size, path.as_uri(), request.strength, fetched=True)
    return download(replace(request, urls=(path.as_uri(),), sha256=digest))


def _reachable(request: Request, passed_over: Path | None) -> tuple[str, ...]:
    """Where to look for missing weights, in order: mirrors, then the card's urls; offline, what needs no socket.

    Args:
        request: What is to be fetched.
        passed_over: A cache that has it and is not believed.

    Raises:
        Offline: The settings forbid the network.
    """
    bases = settings.mirrors() if digests.is_full(request.sha256) else ()
    all_urls = tuple(dict.fromkeys((*(below(base, request.sha256) for base in bases), *map(rewritten, request.urls))))
    urls = tuple(url for url in all_urls if not (settings.offline() and needs_network(url)))
    if not urls:
        require_online(request.name, all_urls, passed_over=passed_over)
    if urls and not (urls := tuple(url for url in urls if not (hub_is_offline() and is_hub(url)))):
        raise Offline(
            f"{request.name} is not in the cache, and HF_HUB_OFFLINE is set",
            done="no socket was opened",
            hint="unset HF_HUB_OFFLINE; or take in the file with `zoo cache import FILE`",
            file=request.name,
            urls=all_urls,
        )
    return urls


def _with_declared_digest(entry: Entry, request: Request, failed: Attempts) -> Request:
    """Give the request for missing weights the digest that a shared cache, a mirror or the hub declares.

    Args:
        entry: Its place in the cache.
        request: What is to be fetched.
        failed: Mirrors that did not answer are added to it.
    """
    if digests.is_full(request.sha256):
        return request
    digest = entry.shared_digest()
    if not digest.startswith(request.sha256):  # it has another version, which is no reason to refuse this one
        digest = ""
    digest = digest or _declared_by_mirror(request, failed) or _declared_by_hub(request)
    if not digest:
        return request
    if not digest.startswith(request.sha256):
        raise DigestMismatch(
            f"the digest of {request.name} has moved",
            expected=f"sha256 {request.sha256}... (the card)",
            got=f"sha256 {digest} (declared by its server)",
            done="nothing was downloaded",
            expected_digest=request.sha256,
            got_digest=digest,
            source=request.urls[0],
        )
    return replace(request, sha256=digest, strength="weak" if request.sha256 else "declared")


def _declared_by_mirror(request: Request, failed: Attempts) -> str:
    """The digest that a mirror declares for missing weights; ``""`` where none does."""
    vouches = request.sha256 or request.trust or settings.may_vouch("mirror")  # a checkout's mirror only serves
    for base in settings.mirrors() if vouches and not settings.offline() else ():
        try:
            digest = digest_at_mirror(base, request.name, request.policy)
        except Failure as failure:
            failed.append((base, str(failure)))
        else:
            if digests.agrees(digest, request.sha256) or (digest and not request.sha256):
                return digest
    return ""


def _declared_by_hub(request: Request) -> str:
    """The digest that the hub declares for missing weights, now or when its own cache was filled."""
    attempts: Attempts = []
    for original, url in zip(request.urls, map(rewritten, request.urls), strict=True):
        # HF_ENDPOINT, which only a user sets, moves it within the hub
        is_moved_by_checkout = url != original and not is_hub(url) and not settings.may_vouch("rewrite")
        if is_moved_by_checkout and not (request.sha256 or request.trust):
            continue  # who wrote the settings would vouch for bytes of their own
        if looks_like_hub(url) and not settings.offline() and not (hub_is_offline() and is_hub(url)):
            try:
                if digest := declared_digest(headers_of(url, request.policy)):
                    return digest
            except Failure as failure:
                attempts.append((url, str(failure)))
    digest = digest_in_hub_cache(request.urls)
    if digest and digest.startswith(request.sha256):
        return digest
    if attempts and not request.sha256:
        raise unreachable(request.name, attempts)
    return ""
