"""Some weights that are wanted: look for them in the cache, then elsewhere on this machine, then at their sources."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import CacheError, DigestMismatch
from zoo_core.weights import digest as digests
from zoo_core.weights.bring import Order, bring
from zoo_core.weights.cache import Cache, fresh_ref
from zoo_core.weights.digest import Stamp
from zoo_core.weights.hub import declared_digest, looks_like_hub
from zoo_core.weights.mirrors import digest_at_mirror
from zoo_core.weights.progress import progress_bar
from zoo_core.weights.refs import read_ref
from zoo_core.weights.reuse import find_elsewhere
from zoo_core.weights.together import turn
from zoo_core.weights.trust import Trust, require_online, require_trust
from zoo_core.weights.urls import file_name, needs_network, shown

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.card import Weights
    from zoo_core.weights.pins import Pin
    from zoo_core.weights.policy import Policy


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
        return tuple(dict.fromkeys((*mirrors, *self._own_urls)))

    @property
    def _own_urls(self) -> tuple[str, ...]:
        return tuple(_rewritten(url) for url in self.weights.urls)

    def cached(self) -> Artefact | None:
        """The object in the cache, if it is there and its bytes are right."""
        if not digests.is_full(self.pin.sha256):
            return None
        ref = self.pin.ref
        path = self.cache.place(ref.sha256, ref.file) if ref else self.cache.find(self.pin.sha256)
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

    def fetched(self, *, progress: bool | None, trust: Trust | None, policy: Policy) -> Artefact:
        """The object, fetched now."""
        file = file_name(self.weights.urls[0])
        if found := find_elsewhere(self.weights.urls, self.pin.sha256, self.weights.size):
            return self._adopted(*found, file, policy)
        wanted = self if settings.offline() else self._declared(policy)
        urls = wanted.urls
        if settings.offline():
            urls = tuple(url for url in urls if not needs_network(url))
            if not urls:
                require_online(self.name, self.urls)
        require_trust(urls, wanted.pin.sha256, trust)
        with progress_bar(file, self.weights.size, progress) as advance:
            return wanted._together(replace(wanted._order(urls, file, policy), advance=advance))  # noqa: SLF001

    def _declared(self, policy: Policy) -> Wanted:
        """With the whole digest that a mirror or the Hugging Face hub declares, where nobody else knows it."""
        if digests.is_full(self.pin.sha256):
            return self
        answers = (digest_at_mirror(base, self.name, policy) for base in settings.mirrors())
        digest = next((answer for answer in answers if digests.agrees(answer, self.pin.sha256)), "")
        for url in self._own_urls if not digest else ():
            if looks_like_hub(url) and (digest := declared_digest(url, policy)):
                break
        if not digest:
            return self
        if not digest.startswith(self.pin.sha256):
            raise DigestMismatch(
                f"the digest of {self.name} has moved",
                expected=f"sha256 {self.pin.sha256}... (the card)",
                got=f"sha256 {digest} (declared by its server)",
                done="nothing was downloaded",
                expected_digest=self.pin.sha256,
                got_digest=digest,
                source=self.urls[0],
            )
        return replace(self, pin=replace(self.pin, sha256=digest, strength=self.pin.strength_if_declared))

    def _together(self, order: Order) -> Artefact:
        """Bring it, unless another process does so first."""
        self.cache.make()
        lock = order.folder / f"{order.stem}.lock"
        with turn(lock, ready=lambda: self._arrived() is not None, signs=order.signs, patience=order.policy.patience):
            if arrived := self._arrived():
                return replace(arrived, fetched=True)
            brought = bring(order)
        return self._kept(brought.path, brought.sha256, brought.url)

    def _arrived(self) -> Artefact | None:
        ref = read_ref(self.ref_path)
        if ref is None or ref == self.pin.ref or not ref.sha256.startswith(self.pin.sha256):
            return None
        return replace(self, pin=replace(self.pin, ref=ref, sha256=ref.sha256)).cached()

    def _order(self, urls: tuple[str, ...], file: str, policy: Policy) -> Order:
        return Order(
            label=self.name,
            urls=urls,
            folder=self.cache.arriving,
            stem=f"{self.pin.sha256[:16] or 'unknown'}-{file}",
            sha256=self.pin.sha256,
            size=self.weights.size,
            place=lambda digest: self.cache.place(digest, file),
            read_only=True,
            policy=policy,
        )

    def _adopted(self, path: Path, digest: str, file: str, policy: Policy) -> Artefact:
        """Take in a file that another tool downloaded: as a link, or as a copy where that cannot be."""
        self.cache.make()
        linked = self.cache.link(path, digest, file)
        if linked is None:
            linked = bring(replace(self._order((path.as_uri(),), file, policy), sha256=digest)).path
        return self._kept(linked, digest, path.as_uri())

    def _kept(self, path: Path, digest: str, url: str) -> Artefact:
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
