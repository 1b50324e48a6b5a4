"""Copies that can be mapped: of published weights beside the proven object, and of a user's own checkpoints.

A pickle, a tar or a compressed archive has to be read and copied on every load; safetensors are mapped. Published
safetensors whose tensors are not aligned get a copy too, in which they are.

The copy of a user's own file is found by its path and stamp, and after a move by what it holds.

A copy says nothing about what weights are: it is used only after the object that it was made from has been proven, and
what it should be is written beside it as a ref, with its own digest and stamp. Under ``ZOO_VERIFY=always`` nothing that
a card does not vouch for is believed, and so the object itself is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from torch import Tensor

from zoo_core import settings
from zoo_core.errors import CacheError, Unreadable, ZooWarning
from zoo_core.utils import no_follow
from zoo_core.utils.mapped_pages import release
from zoo_core.weights.cache.refs import Ref, fresh_ref, read_ref
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.checkpoint.candidates import Candidate
from zoo_core.weights.checkpoint.read import Checkpoint, open_checkpoint, read_and_tell
from zoo_core.weights.checkpoint.unsupported import unsupported_kind
from zoo_core.weights.digest import Stamp, has_noted, is_full, steady_digest
from zoo_core.weights.download.disk import refuse_odd, require_space
from zoo_core.weights.download.partial import Partial
from zoo_core.weights.formats.safetensors import misaligned, plan, read_aligned

if TYPE_CHECKING:
    from zoo_core.weights.request import Artefact

FOLDER = "converted"
_REF = "ref"
_WORTH_IT = 1 << 20
"""Misaligned bytes from which safetensors get a copy; fewer are copied on each load in no time."""
_BLOCK = 1 << 22
_NOT_OURS = {errno.EROFS, errno.EACCES, errno.EPERM}


def state_dict_of(artefact: Artefact) -> dict[str, Tensor]:
    """Map the state dict of an artefact, from its converted copy in the cache where its own file cannot be mapped.

    The copy is made on the first use, if the cache can be written. What is returned equals
    :func:`~zoo_core.weights.read_state_dict` of the artefact, bit for bit and in the same order.

    Args:
        artefact: What :func:`~zoo_core.weights.obtain` returned: proven just now, or a user's own file.

    Raises:
        Unreadable: The file is not weights.

    Warns:
        ZooWarning: There is no room for the copy; the weights are read without it.
    """
    believed = is_full(artefact.sha256) and artefact.strength != "local"
    if not believed or settings.verify() == "always" or not settings.convert():
        return read_and_tell(artefact.path)[0]
    copy = Copy(Cache(artefact.path.parents[2]), artefact.sha256)
    result = copy.read()
    if result is not None:
        return result
    state, mapped = read_and_tell(artefact.path)
    if mapped and misaligned(state) < _WORTH_IT:
        return state
    made = copy.read() if copy.write(state, artefact.path.stem, mapped=mapped) else None
    return state if made is None else made


@dataclass(frozen=True)
class Copy:
    """The converted copy of one object; it need not be there.

    Args:
        cache: The cache that holds both.
        source: The digest of the object.
    """

    cache: Cache
    source: str

    @property
    def folder(self) -> Path:
        """Where the copy and its ref are."""
        return self.cache.root / FOLDER / self.source

    @property
    def size(self) -> int:
        """What the folder takes, in bytes."""
        return sum(no_follow.status(path).st_size for path in self.files())

    def files(self) -> list[Path]:
        """All that is in the folder."""
        with contextlib.suppress(OSError):
            return [self.folder / name for name in no_follow.names(self.folder)]
        return []

    def ref(self) -> Ref | None:
        """What the copy should be, if that is written down and readable."""
        try:
            ref = read_ref(self.folder / _REF)
        except CacheError:
            return None
        if ref is None or ref.source != f"sha256:{self.source}":
            return None
        is_believed = not self.cache.is_only_found or has_noted(self.folder / ref.file, ref.sha256)
        return ref if is_believed else None

    def read(self) -> dict[str, Tensor] | None:
        """The tensors, mapped; None when there is no copy, or it is not what it should be."""
        path = self.prove()
        if path is None:
            return None
        try:
            return read_aligned(path)
        except (Unreadable, ValueError, KeyError):
            return None

    def prove(self, *, again: bool = False) -> Path | None:
        """The copy when it is what its ref says; it is hashed when its stamp is another, or on request."""
        ref = self.ref()
        if ref is None:
            return None
        path = self.folder / ref.file
        try:
            if not again and Stamp.of(path) == ref.stamp:
                return path
            refuse_odd(path)
            digest, stamp = steady_digest(path)
        except (OSError, CacheError):
            return None
        if digest != ref.sha256:
            return None
        if stamp != ref.stamp:
            with contextlib.suppress(OSError):  # in a read-only cache it is hashed each time
                self._note(path, digest, stamp)
        return path

    def write(self, state: Mapping[str, Tensor], name: str, *, mapped: bool = False) -> bool:
        """Write the copy.

        Args:
            state: What is in the object.
            name: The stem of the file's name.
            mapped: Whether it is mapped from a file, whose pages are given back on the way.

        Returns:
            Whether it is there: not when the tensors cannot be written as safetensors, another process is at it, or the
            cache cannot be written.

        Warns:
            ZooWarning: There is no room.
        """
        parts = plan(state)
        if parts is None:
            return False
        path = self.folder / f"{name}.safetensors"
        try:
            self.cache.make()
            with _alone(self.cache.arriving / f"{self.source[:16]}-converted.lock") as alone:
                if not alone:
                    return False
                require_space(self.cache.arriving, sum(map(len, parts)))
                self.remove()
                with Partial.new(self.cache.arriving, f"{self.source[:16]}-converted") as partial:
                    for block in _in_blocks(parts, mapped=mapped):
                        partial.write(block)
                    digest = partial.digest
                    partial.publish(path, read_only=True)
                self._note(path, digest, Stamp.of(path))
        except (CacheError, OSError) as error:
            if getattr(error, "errno", None) not in _NOT_OURS:  # a read-only cache is a good cache
                warnings.warn(f"weights are read without a copy that can be mapped: {error}", ZooWarning, stacklevel=5)
            return False
        return True

    def holds(self, state: Mapping[str, Tensor], *, mapped: bool = False) -> bool:
        """Whether the copy is what :meth:`write` would make of these tensors, byte for byte.

        It ends at the first block that differs, and takes no memory of its own.
        """
        path, parts = self.prove(), plan(state)
        if path is None or parts is None or no_follow.status(path).st_size != sum(map(len, parts)):
            return False
        with os.fdopen(no_follow.descriptor(path), "rb", buffering=0) as file:
            return all(_are_next(file, memoryview(part), mapped=mapped) for part in parts)

    def remove(self) -> int:
        """Remove the copy.

        Returns:
            How many bytes that freed.

        Raises:
            OSError: The cache cannot be written.
        """
        freed = self.size
        for path in self.files():
            no_follow.unlink(path)
        with contextlib.suppress(OSError):
            no_follow.remove_folder(self.folder)
        return freed

    def _note(self, path: Path, digest: str, stamp: Stamp) -> None:
        ref = fresh_ref(path, digest, source=f"sha256:{self.source}", strength="converted", stamp=stamp)
        self.cache.note(path, digest, stamp)
        self.cache.write_ref(self.folder / _REF, ref)


def copies(cache: Cache) -> list[Copy]:
    """Every converted copy in a cache, whole or not."""
    with contextlib.suppress(OSError):
        names = no_follow.names(cache.root / FOLDER)
        return [Copy(cache, name) for name in names if no_follow.is_folder(cache.root / FOLDER / name)]
    return []


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether no other process is making the same converted copy; without locks, work may be done twice."""
    import filelock

    holder = filelock.FileLock(lock)
    try:
        holder.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except NotImplementedError:
        yield True
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            no_follow.unlink(lock)  # while it is ours, so that no other process has it
        with contextlib.suppress(OSError):
            holder.release()


def _in_blocks(parts: Iterable[memoryview | bytes], *, mapped: bool = False) -> Iterator[memoryview]:
    """The bytes of a converted copy in large blocks: the system keeps, and maps, these in large pieces too."""
    block = bytearray()
    for part in parts:
        rest = memoryview(part)
        while rest:
            room = _BLOCK - len(block)
            taken, rest = rest[:room], rest[room:]
            block += taken
            if mapped:
                release(np.frombuffer(taken, dtype=np.uint8).ctypes.data, len(taken))
            if len(block) == _BLOCK:
                yield memoryview(block)
                block = bytearray()
    if block:
        yield memoryview(block)


def _are_next(file: io.FileIO, part: memoryview, *, mapped: bool) -> bool:
    """Whether the next bytes of a converted copy are these; compared in place, one block after another."""
    buffer = memoryview(bytearray(min(len(part), _BLOCK)))
    for start in range(0, len(part), _BLOCK):
        block = np.frombuffer(part[start : start + _BLOCK], dtype=np.uint8)
        read = np.frombuffer(buffer[: file.readinto(buffer[: len(block)])], dtype=np.uint8)
        if not np.array_equal(read, block):
            return False
        if mapped:
            release(block.ctypes.data, len(block))
    return True


NOTES = "own"
_WORTH_A_COPY = 16 << 20
"""Bytes of the smallest file that gets a copy; others are copied into memory in no time."""
_MOST = 16
"""Files that may have a copy at once."""


def open_own(path: Path) -> Checkpoint:
    """Open a checkpoint of the user's own from its converted copy in the cache; make that on the first use.

    Args:
        path: Of the file, or of an index of shards.

    Raises:
        Unreadable: It cannot be read, holds no tensors by name, or is being written to.
    """
    try:
        stamp = Stamp.of(no_follow.real(path))
    except OSError:  # the reader says why
        return open_checkpoint(path)
    if stamp.size < _WORTH_A_COPY or not settings.convert() or settings.verify() == "always":
        return open_checkpoint(path)
    try:
        cache = Cache()
    except CacheError:
        return open_checkpoint(path)
    return _known(cache, no_follow.real(path), stamp) or _converted(cache, path, stamp)


def _known(cache: Cache, path: Path, stamp: Stamp) -> Checkpoint | None:
    """What the converted copy of a user's file holds, where a note says which bytes are in the file now."""
    note = _note(_note_path(cache, path))
    return _from_names(path, Copy(cache, note.sha256).read()) if note and note.stamp == stamp else None


def _converted(cache: Cache, path: Path, stamp: Stamp) -> Checkpoint:
    """What a user's file holds, from a converted copy of the same tensors, which is made now if need be."""
    checkpoint, file = open_checkpoint(path), no_follow.real(path)
    names = _names(checkpoint.candidates)
    if names is None or _would_show(cache, file):
        return checkpoint
    identity = _of_another_place(cache, names, stamp, mapped=checkpoint.mapped)
    if identity is None:
        _forget(cache, most=_MOST - 1)
        fresh = hashlib.sha256(f"{file.as_uri()} {stamp}".encode()).hexdigest()
        identity = fresh if Copy(cache, fresh).write(names, file.stem, mapped=checkpoint.mapped) else None
    _require_steady(path, stamp)
    if identity is None:
        return checkpoint
    with contextlib.suppress(OSError):
        note = fresh_ref(file, identity, source=file.as_uri(), strength="local", stamp=stamp)
        cache.write_ref(_note_path(cache, file), note)
    del checkpoint, names  # before the copy is mapped, so that memory never holds both
    return _from_names(path, Copy(cache, identity).read()) or open_checkpoint(path)


def _of_another_place(cache: Cache, names: dict[str, Tensor], stamp: Stamp, *, mapped: bool) -> str | None:
    """The converted copy of a file that was moved, known by what it holds: files of its size are compared with it.

    Nothing is hashed for that. The epochs of a full training differ in the first block; with a frozen backbone they
    differ in the head alone, and each candidate is read as far as that.
    """
    known = dict.fromkeys(note.sha256 for _, note in _notes(cache) if note.size == stamp.size)
    for identity in known:
        with contextlib.suppress(OSError, CacheError):
            if Copy(cache, identity).holds(names, mapped=mapped):
                return identity
    return None


def _would_show(cache: Cache, file: Path) -> bool:
    """Whether a converted copy could be read by others who cannot read the user's file itself."""
    try:
        shown, known = (each.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH) for each in (cache.root, file))
    except OSError:  # the cache is yet to be made
        return not file.stat().st_mode & stat.S_IROTH
    return bool(shown & ~known)


def _require_steady(path: Path, stamp: Stamp) -> None:
    """Refuse a user's file that has changed while it was read for its converted copy."""
    with contextlib.suppress(OSError):
        if Stamp.of(no_follow.real(path)) == stamp:
            return
    raise Unreadable(
        f"{path} was written to while it was read",
        done="nothing was loaded",
        hint="load it again when it is whole, or let the trainer write another name and rename it",
        path=path,
    )


def _names(found: Sequence[Candidate]) -> dict[str, Tensor] | None:
    """All tensors of all state dicts for one converted copy, each under a name that says which it is of.

    None where one is odd, or where more than tensors is needed: whole modules say what their layers are.
    """
    if any(each.module for each in found):
        return None
    names = {
        json.dumps([[*each.keys], each.averaged, name]): tensor
        for each in found
        for name, tensor in each.tensors.items()
    }
    return names if all(isinstance(each, Tensor) and not unsupported_kind(each) for each in names.values()) else None


def _from_names(path: Path, tensors: dict[str, Tensor] | None) -> Checkpoint | None:
    """What a converted copy holds, under the names that :func:`_names` gave, as a checkpoint again."""
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
    """The identities of the converted copies of a user's own files that have not changed since."""
    return {note.sha256 for _, note in _notes(cache) if _is_as_it_was(note)}


def _forget(cache: Cache, *, most: int) -> None:
    """Remove the converted copies of files that have changed since, and the oldest beyond so many."""
    notes = sorted(_notes(cache), key=lambda each: each[1].verified, reverse=True)
    good = [each for each in notes if _is_as_it_was(each[1])]
    kept = {note.sha256 for _, note in good[:most]}
    for path, note in notes:
        if (path, note) in good[:most]:
            continue
        with contextlib.suppress(OSError):
            no_follow.unlink(path)
            if note.sha256 not in kept:
                Copy(cache, note.sha256).remove()


def _notes(cache: Cache) -> Iterator[tuple[Path, Ref]]:
    """The notes in the cache that say which converted copy belongs to which file of the user."""
    with contextlib.suppress(OSError):
        for path in (cache.root / NOTES / name for name in no_follow.names(cache.root / NOTES)):
            if not path.name.startswith(".") and (note := _note(path)):
                yield path, note


def _note(path: Path) -> Ref | None:
    """The note in a file that says which converted copy belongs to a file of the user; None where it is broken."""
    try:
        return read_ref(path)
    except CacheError:
        return None


def _is_as_it_was(note: Ref) -> bool:
    """Whether a user's file has the stamp that it had when its converted copy was made."""
    try:
        return Stamp.of(Path(url2pathname(urlsplit(note.source).path))) == note.stamp
    except (OSError, ValueError):
        return False


def _note_path(cache: Cache, path: Path) -> Path:
    """Where the cache notes which converted copy belongs to a file of the user."""
    return cache.root / NOTES / hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:32]
