"""``obtain``: from a card and its weights to a proven file on disk."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from zoo_core import settings
from zoo_core.errors import CacheError, Unreadable
from zoo_core.weights import digest as digests
from zoo_core.weights.bring import Order, bring
from zoo_core.weights.cache import Cache, fresh_ref
from zoo_core.weights.digest import Stamp
from zoo_core.weights.policy import Policy
from zoo_core.weights.progress import progress_bar
from zoo_core.weights.reuse import find_elsewhere
from zoo_core.weights.together import turn
from zoo_core.weights.trust import Trust, checked_trust, require_online, require_trust
from zoo_core.weights.urls import file_name, needs_network, shown

if TYPE_CHECKING:
    import os

    from zoo_core.card import Card, Weights
    from zoo_core.weights.refs import Ref


@dataclass(frozen=True)
class Artefact:
    """A file of weights on disk, and why it is believed.

    Attributes:
        path: Where it is.
        sha256: Its whole digest; ``""`` for a user's own file, which is not hashed.
        size: Its length in bytes.
        source: The url it came from.
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


def obtain_file(path: str | os.PathLike[str]) -> Artefact:
    """A user's own file, as it is: it is not copied into the cache and not hashed, for its user vouches for it.

    Raises:
        Unreadable: There is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     obtain_file(file.name).strength
        'local'
    """
    file = Path(path).expanduser().absolute()
    try:
        size = file.stat().st_size
    except OSError as error:
        raise Unreadable(f"{file} cannot be read", got=error.strerror or str(error), path=file) from error
    if not file.is_file():
        raise Unreadable(f"{file} is not a file", expected="a .pth or .safetensors file", path=file)
    return Artefact(file, "", size, file.as_uri(), "local", fetched=False)


def obtain(
    card: Card,
    weights: Weights,
    *,
    progress: bool | None = None,
    trust: str | None = None,
    cache: Cache | None = None,
    policy: Policy | None = None,
) -> Artefact:
    """The file of some weights: from the cache when it is there and proven, else from the first source that has it.

    A hit opens no socket, and hashes nothing while the file is as it was when it was last hashed.

    Args:
        card: The model.
        weights: One of its weights.
        progress: Whether to show a progress bar; None means on a terminal.
        trust: ``"first-use"`` accepts weights that nothing vouches for; their digest is pinned from then on.
        cache: Where to keep it; None means the usual cache.
        policy: How patient to be.

    Raises:
        DigestMismatch: No source had the right bytes.
        FetchError: No source could be read.
        Offline: ``ZOO_OFFLINE`` is set and the file is not in the cache.
        Untrusted: Nothing says what the bytes should be.
        CacheError: The cache cannot be used.
    """
    checked_trust(trust)
    wanted = _Wanted.of(card, weights, cache or Cache())
    return wanted.cached() or wanted.fetched(
        progress=progress, trust=cast("Trust | None", trust), policy=policy or Policy()
    )


@dataclass(frozen=True)
class _Wanted:
    """Some weights that are wanted, and what is known of them."""

    label: str
    weights: Weights
    cache: Cache
    ref_path: Path
    ref: Ref | None
    sha256: str
    strength: str

    @classmethod
    def of(cls, card: Card, weights: Weights, cache: Cache) -> _Wanted:
        ref_path = cache.ref_path(card.family, card.name, weights.tag)
        try:
            ref = cache.read_ref(ref_path)
        except CacheError:
            if weights.strength != "proven":  # its pin is lost, so that a forged file could not be told
                raise
            ref = None
        pinned = ref is not None and ref.sha256.startswith(weights.sha256)
        sha256 = ref.sha256 if ref and pinned else weights.sha256
        strength = weights.strength if weights.sha256 else "first-use"
        return cls(f"{card.id}@{weights.tag}", weights, cache, ref_path, ref if pinned else None, sha256, strength)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to look, in order: mirrors, which serve by digest, and then the card's own urls, rewritten."""
        mirrors = (f"{base}/{self.sha256}" for base in settings.mirrors() if digests.is_full(self.sha256))
        return (*mirrors, *(_rewritten(url) for url in self.weights.urls))

    def cached(self) -> Artefact | None:
        """The object in the cache, if it is there and its bytes are right."""
        if not digests.is_full(self.sha256):
            return None
        ref = self.ref
        path = self.cache.place(ref.sha256, ref.file) if ref else self.cache.find(self.sha256)
        stamp = self.cache.prove(path, self.sha256, ref.stamp if ref else None) if path else None
        if path is None or stamp is None:
            return None
        if ref and ref.stamp == stamp:
            with contextlib.suppress(OSError):  # when it was last used, for `zoo cache prune`
                self.ref_path.touch()
        else:
            with contextlib.suppress(OSError):  # a read-only cache is a good cache
                self._write_ref(path, ref.source if ref else "", stamp)
        source = ref.source if ref else ""
        return Artefact(path, self.sha256, stamp.size, source, self.strength, fetched=False)

    def fetched(self, *, progress: bool | None, trust: Trust | None, policy: Policy) -> Artefact:
        """The object, fetched now."""
        file = file_name(self.weights.urls[0])
        if found := find_elsewhere(self.weights.urls, self.sha256, self.weights.size):
            return self._adopted(*found, file, policy)
        urls = self.urls
        if settings.offline():
            urls = tuple(url for url in urls if not needs_network(url))
            if not urls:
                require_online(self.label, self.urls)
        require_trust(urls, self.sha256, trust)
        with progress_bar(file, self.weights.size, progress) as advance:
            order = self._order(urls, file, policy)
            return self._together(replace(order, advance=advance))

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
        ref = self.cache.read_ref(self.ref_path)
        if ref is None or ref == self.ref or not ref.sha256.startswith(self.sha256):
            return None
        return replace(self, ref=ref, sha256=ref.sha256).cached()

    def _order(self, urls: tuple[str, ...], file: str, policy: Policy) -> Order:
        return Order(
            label=self.label,
            urls=urls,
            folder=self.cache.arriving,
            stem=f"{self.sha256[:16] or 'unknown'}-{file}",
            sha256=self.sha256,
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
            order = replace(self._order((path.as_uri(),), file, policy), sha256=digest)
            linked = bring(order).path
        return self._kept(linked, digest, path.as_uri())

    def _kept(self, path: Path, digest: str, url: str) -> Artefact:
        stamp, url = Stamp.of(path), shown(url)
        kept = replace(self, sha256=digest)
        try:
            kept._write_ref(path, url, stamp)  # noqa: SLF001 - it is one of us
        except OSError as error:
            raise CacheError(f"cannot write {self.ref_path}", got=error.strerror, path=self.ref_path) from error
        return Artefact(path, digest, stamp.size, url, self.strength, fetched=True)

    def _write_ref(self, path: Path, url: str, stamp: Stamp) -> None:
        ref = fresh_ref(path, self.sha256, source=url, strength=self.strength, stamp=stamp)
        self.cache.write_ref(self.ref_path, ref)


def _rewritten(url: str) -> str:
    for old, new in settings.rewrites():
        if url.startswith(old):
            return new + url[len(old) :]
    return url
