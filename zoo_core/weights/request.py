"""Some weights that are wanted: what is known of them, and whether the cache has them. All that a warm hit imports."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import CacheError
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.refs import read_ref
from zoo_core.weights.cache.store import Cache, fresh_ref
from zoo_core.weights.digest import Stamp
from zoo_core.weights.transport.urls import shown

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.contract.card import Weights
    from zoo_core.weights.trust.pins import Pin


@dataclass(frozen=True)
class Artefact:
    """A file of weights on disk, and why it is believed.

    Attributes:
        path: Where it is.
        sha256: Its whole digest; ``""`` for a user's own file, which is not hashed.
        size: Its length in bytes.
        source: The url it came from, without passwords and keys.
        strength: What vouches for it: ``"proven"`` by a whole digest that was known before; ``"weak"``, a prefix, the
            whole digest being pinned since; ``"declared"`` by its server; ``"first-use"``; or ``"local"``.
        fetched: Whether bytes had to be moved, from the network or from a copy.
    """

    path: Path
    sha256: str
    size: int
    source: str
    strength: str
    fetched: bool


@dataclass(frozen=True)
class Wanted:
    """Some weights that are wanted.

    Attributes:
        name: ``family/name@tag``.
        weights: What their card says.
        cache: Where they are kept.
        ref_path: The file that says what they were last time.
        pin: What their bytes must be.
    """

    name: str
    weights: Weights
    cache: Cache
    ref_path: Path
    pin: Pin

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to look, in order: mirrors, which serve by digest, and then the card's own urls, rewritten."""
        sha256 = self.pin.sha256
        mirrors = (f"{base}/{sha256}" for base in settings.mirrors() if digests.is_full(sha256))
        return tuple(dict.fromkeys((*mirrors, *self.own_urls)))

    @property
    def own_urls(self) -> tuple[str, ...]:
        """The card's own urls, rewritten where the settings say so."""
        return tuple(_rewritten(url) for url in self.weights.urls)

    def cached(self) -> Artefact | None:
        """The object in the cache, if it is there and its bytes are right."""
        if not digests.is_full(self.pin.sha256):
            return None
        ref = self.pin.ref
        path = self.cache.place(ref.sha256, ref.file) if ref else None
        if path is None or not path.exists():
            path = self.cache.find(self.pin.sha256)
        stamp = self.cache.prove(path, self.pin.sha256, ref.stamp if ref else None) if path else None
        if path is None or stamp is None:
            return None
        source = ref.source if ref else ""
        with contextlib.suppress(OSError):  # a read-only cache is a good cache
            if ref and ref.stamp == stamp:
                self.ref_path.touch()  # when it was last used, for `zoo cache prune`
            else:
                self._write_ref(path, source, stamp)
        return Artefact(path, self.pin.sha256, stamp.size, source, self.pin.strength, fetched=False)

    def arrived(self) -> Artefact | None:
        """The object, if another process has brought it since we looked."""
        ref = read_ref(self.ref_path)
        if ref is None or ref == self.pin.ref or not ref.sha256.startswith(self.pin.sha256):
            return None
        found = replace(self, pin=replace(self.pin, ref=ref, sha256=ref.sha256)).cached()
        return replace(found, fetched=True) if found else None

    def keep(self, path: Path, digest: str, url: str) -> Artefact:
        """Write down what an object is that has just been proven.

        Raises:
            CacheError: The ref cannot be written.
        """
        stamp, url = Stamp.of(path), shown(url)
        kept = replace(self, pin=replace(self.pin, sha256=digest))
        try:
            kept._write_ref(path, url, stamp)  # noqa: SLF001 - it is one of us
        except OSError as error:
            raise CacheError(f"cannot write {self.ref_path}", got=error.strerror, path=self.ref_path) from error
        return Artefact(path, digest, stamp.size, url, self.pin.strength, fetched=True)

    def _write_ref(self, path: Path, url: str, stamp: Stamp) -> None:
        ref = fresh_ref(path, self.pin.sha256, source=url, strength=self.pin.strength, stamp=stamp)
        self.cache.write_ref(self.ref_path, ref)


def _rewritten(url: str) -> str:
    for old, new in settings.rewrites():
        if url.startswith(old):
            return new + url[len(old) :]
    return url
