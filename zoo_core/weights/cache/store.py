"""The cache: how it stores proven files by digest under ``objects/`` and names under ``refs/``."""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from zoo_core import settings
from zoo_core.errors import CacheError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import write_anew
from zoo_core.utils.paths import expand
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.location import cache_folder, is_only_found, write_tag
from zoo_core.weights.cache.refs import Ref, fresh_ref, read_ref, ref_name
from zoo_core.weights.digest import Stamp
from zoo_core.weights.download.disk import disk_errors, move_aside, read_error, refuse_mode
from zoo_core.weights.request import Artefact, Request


@dataclass(frozen=True)
class Cache:
    """The store of proven files on disk. Those under ``objects/`` are read-only, and named by what is in them.

    Args:
        root: Its folder, of which the links that lead to it are resolved; where it is left out, the one that
            :func:`~zoo_core.weights.cache.location.cache_folder` finds. Below it no link is followed.

    Example:
        >>> from pathlib import Path
        >>> Cache(Path("weights_cache")).place("ab" * 32, "net.pth").parts[-4:-2]
        ('weights_cache', 'objects')
    """

    root: Path = field(default_factory=cache_folder)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", no_follow.real(self.root.absolute()))

    @cached_property
    def is_only_found(self) -> bool:
        """Whether this is a folder of the checkout that we are in, and not one that the user named.

        What it says of itself is then not believed: neither the stamps of its files nor the digests of its refs.
        """
        return is_only_found(self.root)

    @property
    def arriving(self) -> Path:
        """The folder of files that are still arriving, and of the locks."""
        return self.root / "arriving"

    def make(self) -> None:
        """Make the folder, if it is missing.

        Raises:
            CacheError: It cannot be made.
        """
        with disk_errors(self.root):
            no_follow.make_folder(self.arriving)
            write_tag(self.root)

    def place(self, digest: str, file: str) -> Path:
        """Where an object of that digest belongs."""
        return self.root / "objects" / digest / file

    def find(self, digest: str) -> Path | None:
        """The object of that digest if there is one; it has not been checked."""
        folder = self.root / "objects" / digest
        try:
            names = [name for name in no_follow.names(folder) if not name.startswith(".")]
        except CacheError:
            raise
        except OSError:
            return None
        return folder / names[0] if names else None

    def ref_path(self, family: str, name: str, tag: str) -> Path:
        """The file that says what those weights are."""
        return self.root / "refs" / ref_name(family, name, tag)

    def prove(self, path: Path, digest: str, stamp: Stamp | None = None) -> Stamp | None:
        """The stamp of a file whose bytes are right; None when it is not there or was bad and has been moved aside.

        Args:
            path: An object.
            digest: What its digest must be.
            stamp: Its stamp when it was last hashed: while that is the same, it is not hashed again, unless
                ``ZOO_VERIFY`` is ``always``. Of a cache that was only found, what this user has noted counts.

        Raises:
            CacheError: It is a link or a folder, or it cannot be read.
        """
        try:
            status = no_follow.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        refuse_mode(path, status.st_mode)
        if self.is_only_found:
            stamp = digests.noted_stamp(path, digest)
        if settings.verify() == "auto" and Stamp.from_status(status) == stamp:
            return stamp
        try:
            got, steady = digests.steady_digest(path)
        except FileNotFoundError:  # another process has just moved it aside
            return None
        except OSError as error:
            raise read_error(path, error) from error
        if got == digest:
            self.note(path, digest, steady)
            return steady
        move_aside(path, steady)
        return None

    def note(self, path: Path, digest: str, stamp: Stamp) -> None:
        """Note for this user what a file is that has just been hashed, where the cache itself is not believed."""
        if self.is_only_found:
            digests.note_stamp(path, digest, stamp)

    def vouches_for(self, ref: Ref) -> bool:
        """Whether a ref may say what weights are, where neither the card nor the lock does."""
        return not self.is_only_found or digests.has_noted(self.place(ref.sha256, ref.file), ref.sha256)

    def link(self, path: Path, digest: str, file: str) -> Path | None:
        """Make a file that was just hashed an object without copying it; None where the file system cannot.

        An object that is there already is proven first.
        """
        final = self.place(digest, file)
        with contextlib.suppress(OSError):
            no_follow.make_folder(final.parent)
            if self.prove(final, digest) is None:
                no_follow.link(path, final)
                self.note(final, digest, Stamp.of(final))
            return final
        return None

    def write_ref(self, path: Path, ref: Ref) -> None:
        """Write a ref, whole or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        no_follow.make_folder(path.parent)
        write_anew(path, str(ref))


@dataclass(frozen=True)
class Entry:
    """The entry of the store for some weights: finds the proven object that their name stands for, and keeps one.

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
        stamp = self.cache.prove(path, sha256, ref.stamp if ref else None) if path else None
        if stamp is None and (path := self.cache.find(sha256)):
            stamp = self.cache.prove(path, sha256)
        if stamp is None and (path := shared_object(sha256)):
            stamp = _shared_stamp(path, sha256, ref.stamp if ref else None)
        if path is None or stamp is None:
            return None
        artefact = Artefact(path, sha256, stamp.size, ref.source if ref else "", strength, fetched=False)
        with contextlib.suppress(OSError):  # a read-only cache is a good cache
            if ref and ref.stamp == stamp:
                no_follow.touch(self.ref_path)  # when it was last used, for `zoo cache prune`
            else:
                self._write(artefact, stamp)
        return artefact

    def arrived(self, request: Request) -> Artefact | None:
        """The object, if another process has fetched it since we looked."""
        ref = read_ref(self.ref_path)
        if ref is None or ref == self.ref or not ref.sha256.startswith(request.sha256):
            return None
        if ref.sha256 != request.sha256 and not self.cache.vouches_for(ref):
            return None
        artefact = replace(self, ref=ref).find(ref.sha256, request.strength)
        return replace(artefact, fetched=True) if artefact else None

    def passed_over(self) -> Path | None:
        """The cache, if it knows the weights and is not believed because it was only found."""
        with contextlib.suppress(CacheError):
            if self.ref is None and self.cache.is_only_found and read_ref(self.ref_path):
                return self.cache.root
        return None

    def shared_digest(self) -> str:
        """The digest that the shared cache has under the same name, or ``""``."""
        folder = settings.shared_cache()
        if not folder:
            return ""
        with contextlib.suppress(CacheError):
            ref = read_ref(Cache(expand(folder)).root / self.ref_path.relative_to(self.cache.root))
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
        self.cache.note(artefact.path, artefact.sha256, stamp)
        ref = fresh_ref(artefact.path, artefact.sha256, source=artefact.source, strength=artefact.strength, stamp=stamp)
        self.cache.write_ref(self.ref_path, ref)


def shared_object(sha256: str) -> Path | None:
    """The object of a digest that the shared cache stores, if there is one; it has not been checked."""
    folder = settings.shared_cache()
    return Cache(expand(folder)).find(sha256) if folder else None


def _shared_stamp(path: Path, sha256: str, stamp: Stamp | None) -> Stamp | None:
    """The stamp of a good object that the shared cache stores: notes of others are not believed, nothing is moved."""
    with contextlib.suppress(OSError):
        status = no_follow.status(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        if Stamp.from_status(status) == stamp and settings.verify() == "auto":
            return stamp
        digest, steady = digests.steady_digest(path)
        return steady if digest == sha256 else None
    return None
