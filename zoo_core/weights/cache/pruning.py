"""Pruning the cache: what may go since nothing needs it, and how weights are removed with all that was made of them."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import ZooWarning
from zoo_core.utils import no_follow
from zoo_core.weights.cache.converted import FOLDER as CONVERTED
from zoo_core.weights.cache.converted import Copy, copies, own_copies
from zoo_core.weights.cache.inventory import Kept, contents, files_in, is_own
from zoo_core.weights.download.disk import disk_errors
from zoo_core.weights.download.partial import sweep

if TYPE_CHECKING:
    from zoo_core.weights.cache.store import Cache

_FRESH = 600.0
"""Seconds for which an object without a ref is left alone: its ref may be about to be written."""
FEATURES = "features"
"""The folder of what ``zoo.cached_features`` keeps."""


def _links(folder: Path) -> Iterator[Leftover]:
    """Links in the places of folders of the cache, to be pruned; what they lead to stays."""
    with contextlib.suppress(OSError):
        is_link = stat.S_ISLNK(no_follow.status(folder).st_mode)
        for home in [folder] if is_link else [folder / name for name in no_follow.names(folder)]:
            status = no_follow.status(home)
            if stat.S_ISLNK(status.st_mode):
                yield Leftover(home, status.st_size, "a link")


def remove(cache: Cache, kept: Iterable[Kept]) -> int:
    """Prune the cache of some weights: remove them, and the copies made of them, where no other name needs them.

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
        paths = dict.fromkeys(item.path for item in gone if is_own(cache, item) and item.ref.sha256 not in needed)
        sources = {item.ref.sha256 for item in gone} - needed
        return sum(map(_remove, paths)) + sum(Copy(cache, source).remove() for source in sources)


@dataclass(frozen=True)
class Leftover:
    """Something in the cache that nothing needs, so that pruning may remove it.

    Attributes:
        path: Where it is.
        size: In bytes.
        reason: Why it may go.
    """

    path: Path
    size: int
    reason: str


def leftovers(cache: Cache, *, unused_days: float | None = None) -> tuple[list[Leftover], list[Kept]]:
    """What pruning would remove from the cache: files and refs.

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
    for path in files_in(cache.root / "objects"):
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
    """Leftovers of the cache for pruning: files of features that were last used before a limit."""
    paths = files_in(cache.root / FEATURES)
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
    """Remove a file when pruning, and its folder when empty; give the bytes that this freed."""
    try:
        size = no_follow.status(path).st_size
    except OSError:
        return 0
    no_follow.unlink(path)
    with contextlib.suppress(OSError):  # not empty yet
        no_follow.remove_folder(path.parent)
    return size
