"""The cache: proven files by digest under ``objects/``, and what names stand for under ``refs/``, like git."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.location import cache_folder, write_tag
from zoo_core.weights.cache.refs import Ref, now, ref_name
from zoo_core.weights.digest import Stamp
from zoo_core.weights.download.disk import disk_errors, move_aside, read_error, refuse_odd

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """Proven files on disk. Files under ``objects/`` are read-only, and named by what is in them.

    Args:
        root: Its folder; None means the one that :func:`~zoo_core.weights.cache.location.cache_folder` finds.

    Example:
        >>> from pathlib import Path
        >>> Cache(Path("weights_cache")).place("ab" * 32, "net.pth").parts[1:2]
        ('objects',)
    """

    root: Path = field(default_factory=cache_folder)

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
            self.arriving.mkdir(parents=True, exist_ok=True)
            write_tag(self.root)

    def place(self, digest: str, file: str) -> Path:
        """Where an object of that digest belongs."""
        return self.root / "objects" / digest / file

    def find(self, digest: str) -> Path | None:
        """The object of that digest if there is one; it has not been checked."""
        folder = self.root / "objects" / digest
        with contextlib.suppress(OSError):
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - one call
            return folder / names[0] if names else None
        return None

    def ref_path(self, family: str, name: str, tag: str) -> Path:
        """The file that says what those weights are."""
        return self.root / "refs" / ref_name(family, name, tag)

    def prove(self, path: Path, digest: str, stamp: Stamp | None = None) -> Stamp | None:
        """The stamp of a file whose bytes are right; None when it is not there or was bad and has been moved aside.

        Args:
            path: An object.
            digest: What its digest must be.
            stamp: Its stamp when it was last hashed: while that is the same, it is not hashed again, unless
                ``ZOO_VERIFY`` is ``always``.

        Raises:
            CacheError: It is a link or a folder, or it cannot be read.
        """
        try:
            before = Stamp.of(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if before == stamp and settings.verify() == "auto":
            return before
        refuse_odd(path)
        try:
            got, steady = digests.steady_digest(path)
        except FileNotFoundError:  # another process has just moved it aside
            return None
        except OSError as error:
            raise read_error(path, error) from error
        if got == digest:
            return steady
        move_aside(path, steady)
        return None

    def link(self, path: Path, digest: str, file: str) -> Path | None:
        """Make a file that was just hashed an object without copying it; None where the file system cannot.

        An object that is there already is proven first.

        Args:
            path: The file, on the same file system.
            digest: Its digest.
            file: The name to give it.
        """
        final = self.place(digest, file)
        with contextlib.suppress(OSError):
            final.parent.mkdir(parents=True, exist_ok=True)
            if self.prove(final, digest) is None:
                os.link(path, final)
            return final
        return None

    def write_ref(self, path: Path, ref: Ref) -> None:
        """Write a ref, whole or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
        try:
            temporary.write_text(str(ref), encoding="utf-8")
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def fresh_ref(path: Path, digest: str, *, source: str, strength: str, stamp: Stamp) -> Ref:
    """The ref of an object that has just been proven."""
    return Ref(digest, stamp.size, path.name, source, strength, now(), stamp)
