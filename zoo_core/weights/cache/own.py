"""A user's own checkpoint, kept once more in a form that can be mapped, so that the second load is as fast as any.

The user's file itself is never what a model is mapped from: a trainer may write to it again. A copy is of a file as it
was at one moment, by its path and its stamp; while these are the same the file is not even opened. It holds the state
dicts that were in it and nothing that only training needs. The file is not hashed, which would take as long as all the
rest; the copy has a digest of its own.

Copies of files that have changed or gone are removed when the next one is made, and so are the oldest of many.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from torch import Tensor

from zoo_core import settings
from zoo_core.errors import CacheError, Unreadable
from zoo_core.weights.cache.converted import Copy
from zoo_core.weights.cache.refs import Ref, read_ref
from zoo_core.weights.cache.store import Cache, fresh_ref
from zoo_core.weights.checkpoint.candidates import Candidate
from zoo_core.weights.checkpoint.odd import kind_of
from zoo_core.weights.checkpoint.open import Checkpoint, open_checkpoint
from zoo_core.weights.digest import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOTES = "own"
_WORTH_IT = 16 << 20
"""Bytes of the smallest file that gets a copy; others are copied into memory in no time."""
_MOST = 16
"""Files that may have a copy at once."""


def open_own(path: Path) -> Checkpoint:
    """What a checkpoint of the user's own holds, from its copy where it has one; the copy is made on the first use.

    Args:
        path: Of the file, or of an index of shards.

    Raises:
        Unreadable: It cannot be read, holds no tensors by name, or is being written to.
    """
    try:
        stamp = Stamp.of(path.resolve())
    except OSError:  # the reader says why
        return open_checkpoint(path)
    if stamp.size < _WORTH_IT or not settings.convert() or settings.verify() == "always":
        return open_checkpoint(path)
    try:
        cache = Cache()
    except CacheError:
        return open_checkpoint(path)
    return _known(cache, path.resolve(), stamp) or _converted(cache, path, stamp)


def _known(cache: Cache, path: Path, stamp: Stamp) -> Checkpoint | None:
    """What the copy of a file holds, where a note says which bytes are in the file now."""
    note = _note(_note_path(cache, path))
    return _checkpoint(path, Copy(cache, note.sha256).read()) if note and note.stamp == stamp else None


def _converted(cache: Cache, path: Path, stamp: Stamp) -> Checkpoint:
    """What a file holds, from a copy that is made of it now if it can be."""
    checkpoint, file = open_checkpoint(path), path.resolve()
    names = _names(checkpoint.candidates)
    if names is None or _would_show(cache, file):
        return checkpoint
    _forget(cache, most=_MOST - 1)
    identity = hashlib.sha256(f"{file.as_uri()} {stamp}".encode()).hexdigest()
    copy = Copy(cache, identity)
    is_written = copy.write(names, file.stem, mapped=checkpoint.mapped)
    _require_steady(path, stamp)
    if not is_written:
        return checkpoint
    with contextlib.suppress(OSError):
        note = fresh_ref(file, identity, source=file.as_uri(), strength="local", stamp=stamp)
        cache.write_ref(_note_path(cache, file), note)
    del checkpoint, names  # before the copy is mapped, so that memory never holds both
    return _checkpoint(path, copy.read()) or open_checkpoint(path)


def _would_show(cache: Cache, file: Path) -> bool:
    """Whether a copy could be read by others who cannot read the file."""
    try:
        shown, known = (each.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH) for each in (cache.root, file))
    except OSError:  # the cache is yet to be made
        return not file.stat().st_mode & stat.S_IROTH
    return bool(shown & ~known)


def _require_steady(path: Path, stamp: Stamp) -> None:
    """Refuse a file that has changed while it was read."""
    with contextlib.suppress(OSError):
        if Stamp.of(path.resolve()) == stamp:
            return
    raise Unreadable(
        f"{path} was written to while it was read",
        done="nothing was loaded",
        hint="load it again when it is whole, or let the trainer write another name and rename it",
        path=path,
    )


def _names(found: Sequence[Candidate]) -> dict[str, Tensor] | None:
    """All tensors of all state dicts, each under a name that says which it is of; None where one is odd."""
    names = {
        json.dumps([[*each.keys], each.averaged, name]): tensor
        for each in found
        for name, tensor in each.tensors.items()
    }
    return names if all(isinstance(each, Tensor) and not kind_of(each) for each in names.values()) else None


def _checkpoint(path: Path, tensors: dict[str, Tensor] | None) -> Checkpoint | None:
    """The checkpoint that :func:`_names` has spread out."""
    if tensors is None:
        return None
    result: dict[tuple[tuple[str, ...], bool], dict[str, Any]] = {}
    for name, tensor in tensors.items():
        try:
            keys, averaged, own = json.loads(name)
        except (ValueError, TypeError):
            return None
        result.setdefault((tuple(keys), averaged), {})[own] = tensor
    every = tuple(Candidate(keys, state, averaged) for (keys, averaged), state in result.items())
    return Checkpoint(path, None, every, mapped=False)


def own_copies(cache: Cache) -> set[str]:
    """What the copies are called whose files are as they were when these were made."""
    return {note.sha256 for _, note in _notes(cache) if _is_as_it_was(note)}


def _forget(cache: Cache, *, most: int) -> None:
    """Remove the copies of files that are no longer what they were, and the oldest beyond so many."""
    notes = sorted(_notes(cache), key=lambda each: each[1].verified, reverse=True)
    good = [each for each in notes if _is_as_it_was(each[1])]
    kept = {note.sha256 for _, note in good[:most]}
    for path, note in notes:
        if (path, note) in good[:most]:
            continue
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            if note.sha256 not in kept:
                Copy(cache, note.sha256).remove()


def _notes(cache: Cache) -> Iterator[tuple[Path, Ref]]:
    with contextlib.suppress(OSError):
        for path in sorted((cache.root / NOTES).iterdir()):
            if not path.name.startswith(".") and (note := _note(path)):
                yield path, note


def _note(path: Path) -> Ref | None:
    try:
        return read_ref(path)
    except CacheError:
        return None


def _is_as_it_was(note: Ref) -> bool:
    try:
        return Stamp.of(Path(url2pathname(urlsplit(note.source).path))) == note.stamp
    except (OSError, ValueError):
        return False


def _note_path(cache: Cache, path: Path) -> Path:
    return cache.root / NOTES / hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:32]
