"""Take files that are on this machine already into the cache, under the names that their digests prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.errors import Untrusted
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.entry import Entry
from zoo_core.weights.cache.refs import pinned
from zoo_core.weights.cache.reuse import hub_file, hub_origin
from zoo_core.weights.download.disk import read_error
from zoo_core.weights.download.from_sources import download
from zoo_core.weights.request import Artefact, Request
from zoo_core.weights.transport.urls import file_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from zoo_core.contract.card import Card
    from zoo_core.weights.cache.store import Cache


@dataclass(frozen=True)
class Adopted:
    """A file that was taken in.

    Attributes:
        path: The object in the cache.
        names: What it is, as ``family/name@tag``.
        sha256: Its digest.
    """

    path: Path
    names: tuple[str, ...]
    sha256: str


def adopt(cache: Cache, path: Path, cards: Iterable[Card]) -> Adopted:
    """Take a file into the cache: linked where the file system can, else copied.

    A card without a digest is that of a file in the cache of the Hugging Face hub: the hub declared its digest.

    Args:
        cache: The cache.
        path: The file.
        cards: The models that it may belong to.

    Raises:
        Untrusted: No card knows a file with that digest.
        DigestMismatch: A name that it could have is pinned to other bytes.
        CacheError: The file cannot be read, or the cache cannot be written.
    """
    try:
        digest = digests.sha256_of(path)
    except OSError as error:
        raise read_error(path, error) from error
    origin = hub_origin(path, digest)
    result = [
        (card, file)
        for card in cards
        for weights in card.weights
        for file in weights.files
        if digests.agrees(digest, file.sha256)
        or (origin and not file.sha256 and any(hub_file(url) in origin for url in file.urls))
    ]
    if not result:
        raise Untrusted(
            f"no installed model has weights like {path.name}",
            got=f"sha256 {digest}",
            done="nothing was taken in",
            hint="`zoo plugins` says which families are installed; weights=PATH loads a file of your own as it is",
            path=path,
            sha256=digest,
        )
    for card, weights in result:
        if not digests.is_full(weights.sha256):
            pinned(cache.ref_path(card.family, card.name, weights.tag), digest, source=path.name)
    cache.make()
    file = file_name(result[0][1].urls[0])
    placed = cache.link(path.resolve(), digest, file) or _copied(cache, path, digest, file)
    for card, weights in result:
        entry = Entry(cache, cache.ref_path(card.family, card.name, weights.tag), None)
        strength = "declared" if weights.strength == "none" else weights.strength
        entry.keep(Artefact(placed, digest, placed.stat().st_size, path.absolute().as_uri(), strength, fetched=True))
    return Adopted(placed, tuple(f"{card.id}@{weights.tag}" for card, weights in result), digest)


def _copied(cache: Cache, path: Path, digest: str, file: str) -> Path:
    request = Request(
        name=path.name,
        urls=(path.absolute().as_uri(),),
        sha256=digest,
        strength="proven",
        size=None,
        file=file,
        folder=cache.arriving,
        place=lambda whole: cache.place(whole, file),
        read_only=True,
    )
    return download(request).path
