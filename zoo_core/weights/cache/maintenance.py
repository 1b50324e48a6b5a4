"""What is in the cache, and what may go: list, remove, prune, verify, and take in files that are here already."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import unquote

from zoo_core.errors import CacheError, UsageError, ZooWarning
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils import no_follow
from zoo_core.weights.cache.converted import FOLDER as CONVERTED
from zoo_core.weights.cache.converted import Copy, copies, own_copies
from zoo_core.weights.cache.refs import Ref, read_ref
from zoo_core.weights.cache.store import shared_object
from zoo_core.weights.download.disk import disk_errors
from zoo_core.weights.download.unfinished import sweep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from zoo_core.weights.cache.store import Cache


_FRESH = 600.0
"""Seconds for which an object without a ref is left alone: its ref may be about to be written."""


FEATURES = "features"
"""The folder of what ``zoo.cached_features`` keeps."""


@dataclass(frozen=True)
class Kept:
    """Weights that the cache keeps by name, to be listed and removed.

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
    """List what the cache keeps by name, in order, and what is wrong with the rest.

    Args:
        cache: The cache.
        patterns: Names with wildcards, with or without the tag; none means all.

    Raises:
        UsageError: A pattern matches nothing.
    """
    result: list[Kept] = []
    problems: list[CacheError] = []
    for path in _inside(cache.root / "refs"):
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
    """Where the file of kept weights is: one that is not in this cache may be in the shared one."""
    path = cache.place(ref.sha256, ref.file)
    with contextlib.suppress(OSError):
        no_follow.status(path)
        return path
    return shared_object(ref.sha256) or path


def _name(path: Path) -> str:
    """The ``family/name@tag`` under which kept weights are listed, from their ref."""
    model, _, tag = path.name.partition("@")
    return f"{unquote(path.parent.name)}/{unquote(model)}@{unquote(tag)}"


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern that says what to list or remove means weights of that name, with or without its tag."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition("@")[0], pattern)


def _is_own(cache: Cache, item: Kept) -> bool:
    """Whether kept weights are in this cache, so that it may remove them, and not in the shared one."""
    return item.path.is_relative_to(cache.root)


def objects(cache: Cache) -> Iterator[Path]:
    """List the objects of the cache that can be verified: all in use under their final names."""
    return (path for path in _inside(cache.root / "objects") if not path.name.startswith("."))


def _inside(folder: Path) -> list[Path]:
    """The files that maintenance finds in the folders of a folder of the cache; no link to a folder is entered."""
    result: list[Path] = []
    with contextlib.suppress(OSError):
        for home in no_follow.names(folder):
            with contextlib.suppress(OSError):
                result += [folder / home / name for name in no_follow.names(folder / home)]
    return result


def _links(folder: Path) -> Iterator[Leftover]:
    """Links in the places of folders of the cache, to be pruned; what they lead to stays."""
    with contextlib.suppress(OSError):
        is_link = stat.S_ISLNK(no_follow.status(folder).st_mode)
        for home in [folder] if is_link else [folder / name for name in no_follow.names(folder)]:
            status = no_follow.status(home)
            if stat.S_ISLNK(status.st_mode):
                yield Leftover(home, status.st_size, "a link")


def verify(cache: Cache) -> Iterator[tuple[Path, bool]]:
    """Verify the whole cache: hash every object again. Bad ones are moved aside, and fetched again when needed.

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
    missing = {item.path for item in contents(cache)[0] if _is_own(cache, item)} - set(result)
    yield from ((path, False) for path in sorted(missing))
    for copy in copies(cache):
        if ref := copy.ref():
            good = copy.prove(again=True) is not None
            if not good:
                with contextlib.suppress(OSError):
                    copy.remove()
            yield copy.folder / ref.file, good


def remove(cache: Cache, kept: Iterable[Kept]) -> int:
    """Remove weights from the cache, with the copies made of them, where no other name needs them.

    Returns:
        How many bytes that freed.

    Raises:
        CacheError: The cache cannot be written.
    """
    gone = list(kept)
    with disk_errors(cache.root):
        for item in gone:
            no_follow.unlink(item.ref_path)
        needed = _needed(cache)
        paths = dict.fromkeys(item.path for item in gone if _is_own(cache, item) and item.ref.sha256 not in needed)
        sources = {item.ref.sha256 for item in gone} - needed
        return sum(map(_remove, paths)) + sum(Copy(cache, source).remove() for source in sources)


@dataclass(frozen=True)
class Leftover:
    """Something in the cache that nothing needs, so that ``prune`` may remove it.

    Attributes:
        path: Where it is.
        size: In bytes.
        reason: Why it may go.
    """

    path: Path
    size: int
    reason: str


def leftovers(cache: Cache, *, unused_days: float | None = None) -> tuple[list[Leftover], list[Kept]]:
    """What ``prune`` would remove from the cache: files and refs.

    Args:
        cache: The cache.
        unused_days: Also what was last used more than so many days ago, cached features among it.
    """
    kept, _ = contents(cache)
    limit = None if unused_days is None else time.time() - unused_days * 86400
    if limit is not None and _is_shared(cache):
        warnings.warn(
            f"{cache.root} can be written by others, whose use of its files leaves no trace: none is removed as unused",
            ZooWarning,
            stacklevel=3,
        )
        limit = None
    old = [item for item in kept if limit is not None and item.used.timestamp() < limit]
    needed = _needed(cache)
    result = []
    for path in _inside(cache.root / "objects"):
        with contextlib.suppress(OSError):
            status = no_follow.status(path)
            if path.name.startswith("."):
                result.append(Leftover(path, status.st_size, "bad bytes, moved aside"))
            elif path.parent.name not in needed and time.time() - status.st_ctime > _FRESH:
                result.append(Leftover(path, status.st_size, "no name stands for it"))
    for name in ("objects", CONVERTED, FEATURES):
        result += _links(cache.root / name)
    own = needed | own_copies(cache)
    result += [item for copy in copies(cache) if copy.source not in own or not copy.ref() for item in _left(copy)]
    if limit is not None:
        result += _unused_features(cache, limit)
    return result, old


def _is_shared(cache: Cache) -> bool:
    """Whether others may use a cache too, so that pruning cannot know when its files were last used."""
    with contextlib.suppress(OSError):
        return os.name != "nt" and bool(cache.root.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return False


def _unused_features(cache: Cache, limit: float) -> Iterator[Leftover]:
    """Cached features to prune: those that were last used before a limit."""
    paths = _inside(cache.root / FEATURES)
    for folder in dict.fromkeys(path.parent for path in paths):
        files = [(path, no_follow.status(path)) for path in paths if path.parent == folder]
        if max((status.st_mtime for _, status in files), default=limit) < limit:
            yield from (Leftover(path, status.st_size, "cached features, unused") for path, status in files)


def _left(copy: Copy) -> Iterator[Leftover]:
    """The files that pruning removes of a converted copy that is useless, unless it is just being made."""
    for path in copy.files():
        with contextlib.suppress(OSError):
            status = no_follow.status(path)
            if time.time() - status.st_ctime > _FRESH:
                yield Leftover(path, status.st_size, "a converted copy of what is gone, or not a whole one")


def prune(cache: Cache, *, unused_days: float | None = None) -> int:
    """Remove what nothing in the cache needs: bad files, objects without a name, dead downloads, old weights.

    Returns:
        How many bytes that freed.

    Raises:
        CacheError: The cache cannot be written.
    """
    result, old = leftovers(cache, unused_days=unused_days)
    with disk_errors(cache.root):
        freed = sum(_remove(item.path) for item in result) + sweep(cache.arriving)
    return freed + remove(cache, old)


def _needed(cache: Cache) -> set[str]:
    """The digests that pruning must keep, since a ref names them; none is pruned while a ref cannot be read."""
    kept, problems = contents(cache)
    if problems:
        raise problems[0]
    return {item.ref.sha256 for item in kept}


def _remove(path: Path) -> int:
    """Remove a file that the cache needs no more, and its folder when empty; give the bytes that this freed."""
    try:
        size = no_follow.status(path).st_size
    except OSError:
        return 0
    no_follow.unlink(path)
    with contextlib.suppress(OSError):  # not empty yet
        no_follow.remove_folder(path.parent)
    return size
