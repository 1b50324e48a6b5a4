"""Take files that are on this machine already into the cache, under the names that their digests prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.errors import Untrusted
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.refs import pinned
from zoo_core.weights.cache.store import Cache, fresh_ref
from zoo_core.weights.digest import Stamp
from zoo_core.weights.download.disk import disk_errors, read_error
from zoo_core.weights.download.from_sources import Order, bring
from zoo_core.weights.transport.urls import file_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from zoo_core.contract.card import Card, Weights


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
    found = [
        (card, file)
        for card in cards
        for weights in card.weights
        for file in weights.files
        if digests.agrees(digest, file.sha256)
    ]
    if not found:
        raise Untrusted(
            f"no installed model has weights like {path.name}",
            got=f"sha256 {digest}",
            done="nothing was taken in",
            hint="`zoo plugins` says which families are installed; weights=PATH loads a file of your own as it is",
            path=path,
            sha256=digest,
        )
    for card, weights in found:
        if not digests.is_full(weights.sha256):
            pinned(cache.ref_path(card.family, card.name, weights.tag), digest, source=path.name)
    cache.make()
    file = file_name(found[0][1].urls[0])
    placed = cache.link(path.resolve(), digest, file) or _copied(cache, path, digest, file)
    for card, weights in found:
        _note(cache, card, weights, placed, path)
    return Adopted(placed, tuple(f"{card.id}@{weights.tag}" for card, weights in found), digest)


def _copied(cache: Cache, path: Path, digest: str, file: str) -> Path:
    order = Order(
        label=path.name,
        urls=(path.absolute().as_uri(),),
        folder=cache.arriving,
        stem=f"{digest[:16]}-{file}",
        sha256=digest,
        size=None,
        place=lambda whole: cache.place(whole, file),
        read_only=True,
    )
    return bring(order).path


def _note(cache: Cache, card: Card, weights: Weights, placed: Path, origin: Path) -> None:
    stamp = Stamp.of(placed)
    source = origin.absolute().as_uri()
    ref = fresh_ref(placed, placed.parent.name, source=source, strength=weights.strength, stamp=stamp)
    with disk_errors(cache.root):
        cache.write_ref(cache.ref_path(card.family, card.name, weights.tag), ref)
