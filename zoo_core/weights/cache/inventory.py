"""The inventory of the cache: what it keeps by name, which objects are in it, and whether these are good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from zoo_core.errors import CacheError, UsageError
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils import no_follow
from zoo_core.weights.cache.converted import copies
from zoo_core.weights.cache.refs import Ref, read_ref
from zoo_core.weights.cache.store import Cache, shared_object
from zoo_core.weights.download.disk import read_error


@dataclass(frozen=True)
class Kept:
    """Weights in the inventory of the cache: kept there by name.

    Attributes:
        name: ``family/name@tag``.
        ref: What the cache says of them.
        ref_path: Where it says so.
        path: Where the file belongs.
        used: When they were last used, in UTC.
    """

    name: str
    ref: Ref
    ref_path: Path
    path: Path
    used: datetime

    @property
    def present(self) -> bool:
        """Whether the file is there with the length that it should have."""
        try:
            return no_follow.status(self.path).st_size == self.ref.size
        except OSError:
            return False


def contents(cache: Cache, patterns: Sequence[str] = ()) -> tuple[list[Kept], list[CacheError]]:
    """The inventory of the cache: what it keeps by name, in order, and what is wrong with the rest.

    Args:
        cache: The cache.
        patterns: Names with wildcards, with or without the tag; none means all.

    Raises:
        UsageError: A pattern matches nothing.
        CacheError: A folder of the cache may not be looked into.
    """
    result: list[Kept] = []
    problems: list[CacheError] = []
    for path in files_in(cache.root / "refs"):
        if path.name.startswith("."):
            continue
        try:
            ref = read_ref(path)
            if ref:
                used = datetime.fromtimestamp(no_follow.status(path).st_mtime, UTC)
                result.append(Kept(_name(path), ref, path, _path(cache, ref), used))
        except CacheError as error:
            problems.append(error)
        except OSError:  # it has just been removed
            continue
    for pattern in patterns:
        if not any(_matches(kept.name, pattern) for kept in result):
            hint = did_you_mean(close_matches(pattern, [kept.name for kept in result]), "`zoo cache ls` lists them")
            raise UsageError(f"nothing in the cache is called {pattern!r}", hint=hint, name=pattern)
    return [kept for kept in result if not patterns or any(_matches(kept.name, item) for item in patterns)], problems


def _path(cache: Cache, ref: Ref) -> Path:
    """Where the file of weights in the inventory is: if not in this cache, it may be in the shared one."""
    path = cache.place(ref.sha256, ref.file)
    with contextlib.suppress(OSError):
        no_follow.status(path)
        return path
    return shared_object(ref.sha256) or path


def _name(path: Path) -> str:
    """The ``family/name@tag`` that weights have in the inventory, from the path of their ref."""
    model, _, tag = path.name.partition("@")
    return f"{unquote(path.parent.name)}/{unquote(model)}@{unquote(tag)}"


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means weights of that name in the inventory, with or without the tag."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition("@")[0], pattern)


def is_own(cache: Cache, item: Kept) -> bool:
    """Whether weights in the inventory are in this cache, and not in the shared one."""
    return item.path.is_relative_to(cache.root)


def objects(cache: Cache) -> Iterator[Path]:
    """The objects in the inventory of the cache that can be verified: all under their final names."""
    return (path for path in files_in(cache.root / "objects") if not path.name.startswith("."))


def files_in(folder: Path) -> list[Path]:
    """The files for an inventory in the folders of a folder of the cache; no link to a folder is entered.

    Raises:
        CacheError: One of these may not be looked into: what is in it is not known, and not missing.
    """
    return [folder / home / name for home in _names_in(folder) for name in _names_in(folder / home)]


def _names_in(folder: Path) -> list[str]:
    """The names in a folder for an inventory; none of one that is not there, or of a file."""
    try:
        return no_follow.names(folder)
    except PermissionError as error:
        raise read_error(folder, error) from error
    except OSError:
        return []


def verify(cache: Cache) -> Iterator[tuple[Path, bool]]:
    """Go through the inventory of the cache and hash every object again; bad ones are moved aside.

    Converted copies are hashed too, and bad ones removed: they are made again.

    Returns:
        Each path, and whether its bytes are what its name says; also the paths that a ref names and that are not there.
    """
    result = list(objects(cache))
    for path in result:
        try:
            good = cache.prove(path, path.parent.name) is not None
        except CacheError:  # a link or a folder, or it cannot be read: the others are looked at all the same
            good = False
        yield path, good
    missing = {item.path for item in contents(cache)[0] if is_own(cache, item)} - set(result)
    yield from ((path, False) for path in sorted(missing))
    for copy in copies(cache):
        if ref := copy.ref():
            good = copy.prove(again=True) is not None
            if not good:
                with contextlib.suppress(OSError):
                    copy.remove()
            yield copy.folder / ref.file, good
