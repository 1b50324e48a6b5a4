"""Some weights under their name in the cache: whether they are there, and what is written down when they are."""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import CacheError
from zoo_core.utils.paths import expand
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.refs import Ref, read_ref
from zoo_core.weights.cache.store import Cache, fresh_ref
from zoo_core.weights.digest import Stamp
from zoo_core.weights.request import Artefact

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.weights.request import Request


@dataclass(frozen=True)
class Entry:
    """A name in the cache.

    Attributes:
        cache: The cache.
        ref_path: The file that says what the weights were last time.
        ref: What it says, when that agrees with the card and the lock.
    """

    cache: Cache
    ref_path: Path
    ref: Ref | None

    def find(self, sha256: str, strength: str) -> Artefact | None:
        """The object of a digest, if it is there and its bytes are right.

        Args:
            sha256: Its digest; one that is not whole finds nothing.
            strength: What vouches for it.
        """
        if not digests.is_full(sha256):
            return None
        ref = self.ref
        path = self.cache.place(ref.sha256, ref.file) if ref else None
        if path is None or not path.exists():
            path = self.cache.find(sha256)
        stamp = self.cache.prove(path, sha256, ref.stamp if ref else None) if path else None
        if stamp is None and (path := shared_object(sha256)):
            stamp = _shared_stamp(path, sha256, ref.stamp if ref else None)
        if path is None or stamp is None:
            return None
        artefact = Artefact(path, sha256, stamp.size, ref.source if ref else "", strength, fetched=False)
        with contextlib.suppress(OSError):  # a read-only cache is a good cache
            if ref and ref.stamp == stamp:
                self.ref_path.touch()  # when it was last used, for `zoo cache prune`
            else:
                self._write(artefact, stamp)
        return artefact

    def arrived(self, request: Request) -> Artefact | None:
        """The object, if another process has fetched it since we looked."""
        ref = read_ref(self.ref_path)
        if ref is None or ref == self.ref or not ref.sha256.startswith(request.sha256):
            return None
        artefact = replace(self, ref=ref).find(ref.sha256, request.strength)
        return replace(artefact, fetched=True) if artefact else None

    def shared_digest(self) -> str:
        """The digest that the shared cache has under the same name, or ``""``."""
        folder = settings.shared_cache()
        if not folder:
            return ""
        with contextlib.suppress(CacheError):
            ref = read_ref(expand(folder).absolute() / self.ref_path.relative_to(self.cache.root))
            return ref.sha256 if ref else ""
        return ""

    def keep(self, artefact: Artefact) -> Artefact:
        """Write down what an object is that has just been proven.

        Raises:
            CacheError: The ref cannot be written.
        """
        try:
            stamp, ref = Stamp.of(artefact.path), read_ref(self.ref_path)
            if ref is None or (ref.sha256, ref.strength, ref.stamp) != (artefact.sha256, artefact.strength, stamp):
                self._write(artefact, stamp)
        except OSError as error:
            raise CacheError(f"cannot write {self.ref_path}", got=error.strerror, path=self.ref_path) from error
        return artefact

    def _write(self, artefact: Artefact, stamp: Stamp) -> None:
        ref = fresh_ref(artefact.path, artefact.sha256, source=artefact.source, strength=artefact.strength, stamp=stamp)
        self.cache.write_ref(self.ref_path, ref)


def shared_object(sha256: str) -> Path | None:
    """The object of a digest in the shared cache, if there is one; it has not been checked."""
    folder = settings.shared_cache()
    return Cache(expand(folder).absolute()).find(sha256) if folder else None


def _shared_stamp(path: Path, sha256: str, stamp: Stamp | None) -> Stamp | None:
    """The stamp of a good file of the shared cache: what others noted is not believed, and nothing is moved there."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        if Stamp.of(path) == stamp and settings.verify() == "auto":
            return stamp
        digest, steady = digests.steady_digest(path)
        return steady if digest == sha256 else None
    return None
