"""A file that is still arriving: written and hashed in one go, and renamed to its final name only when it is proven.

Each has a name of its own, ``.<stem>.<host>-<pid>-<random>.partial``, and its owner holds a lock on the open file. One
whose owner has died is adopted by the next process that wants the same file, so that nothing is downloaded twice; what
is in it counts only because the digest of the whole file is checked in the end.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from zoo_core.errors import ZooError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import sync_folder, write_anew
from zoo_core.weights.download.background import Background, BackgroundHash
from zoo_core.weights.download.disk import disk_error, disk_errors, refuse_odd
from zoo_core.weights.download.ownership import (
    FLAGS,
    NO_PROCESS,
    OWNED,
    SUFFIX,
    Stolen,
    claim,
    lock,
    own_name,
    surely_dead,
)

_BLOCK = 1 << 20
_FLUSH_FROM = 32 << 20
_TICK = 0.01
ORIGIN = ".origin"
PIECE = ".at-"
"""Before the number of the first byte of a piece that waits beside a partial file for those before it."""


class Partial:
    """A partial file, which is still being downloaded. Use :meth:`open` in a ``with`` statement.

    Attributes:
        path: Where it is now.
        length: How many bytes it holds.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.length = self._flushed = 0
        self._file = file
        self._keep = True
        self._published = False
        self._follow()

    @classmethod
    def open(cls, folder: Path, stem: str) -> Partial:
        """The partial of a dead process for that stem, or else a new one.

        Args:
            folder: Where the final file will be, or at least on the same file system.
            stem: What is being fetched: only partials of the same stem are continued.

        Raises:
            CacheError: The folder cannot be written.
        """
        with disk_errors(folder):
            no_follow.make_folder(folder)
            adopted = _adopt(folder, stem)
        return adopted or cls.new(folder, stem)

    @classmethod
    def new(cls, folder: Path, stem: str) -> Partial:
        """An empty one.

        Raises:
            CacheError: The folder cannot be written.
        """
        with disk_errors(folder):
            no_follow.make_folder(folder)
            while True:
                path = folder / own_name(stem)
                descriptor = no_follow.descriptor(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS)
                file = os.fdopen(descriptor, "r+b", buffering=0)
                if lock(file) is not False:
                    return cls(path, file)
                file.close()  # another process adopted it before we could lock it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; what has arrived stays for the next process to continue, unless it is known to be of no use."""
        self._unfollow()
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.close()
        if not self._keep or self.length == 0:
            self.discard()
        elif not self._published:
            give_up(self.path)

    def discard(self) -> None:
        """Remove it and what there is beside it, as far as that can be."""
        self._keep = False
        with contextlib.suppress(OSError):
            remove(self.path)

    def write(self, block: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            CacheError: The disk is full or broken; the partial is then removed, to give the space back.
        """
        try:
            rest = memoryview(block)
            while rest:  # unbuffered, so that other processes see it grow
                rest = rest[self._file.write(rest) :]
            self.length += len(block)
            self._hashing.add(block)
            if self.length - self._flushed >= _FLUSH_FROM and self._flushing.is_idle:
                self._flushed = self.length
                self._flushing.do(self._flush)
        except OSError as error:
            self._keep = False
            raise disk_error(self.path.parent, error) from error

    def catch_up(self) -> None:
        """Take over what the file holds already, and the pieces that go on where it ends."""
        self.length = length = self._file.seek(0, os.SEEK_END)
        self._hashing.do(lambda: self._hash(length))
        if not hasattr(os, "pread"):  # a file has one position there
            self._hashing.hexdigest()
        for begin, path in self.pieces():
            with contextlib.suppress(OSError), os.fdopen(no_follow.descriptor(path), "rb") as piece:
                if begin <= self.length:
                    piece.seek(self.length - begin)
                    while block := piece.read(_BLOCK):
                        self.write(block)
                    no_follow.unlink(path)

    def pieces(self) -> list[tuple[int, Path]]:
        """The first byte and the file of each piece that waits for those before it, in order."""
        prefix = f"{self.path.name}{PIECE}"
        found = [path for path in files_beside(self.path) if path.name.startswith(prefix)]
        return sorted((int(number), path) for path in found if (number := path.name.removeprefix(prefix)).isdecimal())

    def piece(self, begin: int) -> Path:
        """Where a piece that begins at some byte may wait for those before it; this process may end meanwhile."""
        return self.path.with_name(f"{self.path.name}{PIECE}{begin}")

    def restart(self) -> None:
        """Forget what has arrived."""
        self._unfollow()
        with disk_errors(self.path.parent):
            self._file.seek(0)
            self._file.truncate()
            for each in files_beside(self.path):
                no_follow.unlink(each)
        self.length = 0
        self._follow()

    def _follow(self) -> None:
        """Hash what is written while more arrives, and keep the disk busy, so that little is left to do in the end."""
        self._hashing, self._flushing = BackgroundHash(), Background()
        self._flushed = 0

    def _unfollow(self) -> None:
        self._hashing.close()
        self._flushing.close()

    def _hash(self, end: int) -> None:
        """Hash what was there before."""
        for at in range(0, end, _BLOCK):
            self._hashing.update(self._read(min(_BLOCK, end - at), at))

    def _read(self, count: int, at: int) -> bytes:
        """Bytes that were written, wherever the next ones are being written."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, at)
        self._file.seek(at)
        try:
            return self._file.read(count)
        finally:
            self._file.seek(0, os.SEEK_END)

    def _flush(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self._file.fileno())

    def touch(self) -> None:
        """Show other processes that this one is still at work."""
        with contextlib.suppress(OSError):
            no_follow.touch(self.path)

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes so far.

        Raises:
            CacheError: The disk is broken.
        """
        with disk_errors(self.path.parent):
            return self._hashing.hexdigest()

    def head(self, count: int = 512) -> bytes:
        """The first bytes."""
        with disk_errors(self.path.parent):
            return self._read(count, 0)

    @property
    def origin(self) -> tuple[str, str]:
        """What names the source of the bytes, and its strong ETag; two empty strings when they are not known."""
        try:
            source, etag = no_follow.read_text(self._origin_path).splitlines()
        except (OSError, ValueError):
            return "", ""
        return source, etag

    @origin.setter
    def origin(self, origin: tuple[str, str]) -> None:
        if self.origin != origin:
            with disk_errors(self.path.parent):
                write_anew(self._origin_path, "\n".join(origin))

    @property
    def _origin_path(self) -> Path:
        return self.path.with_name(self.path.name + ORIGIN)

    def publish(self, final: Path, *, read_only: bool = False) -> Path:
        """Make the file visible under its final name, whole and on the disk. Call it only when the digest is right.

        Args:
            final: The name to give it.
            read_only: Take away the permission to write.

        Raises:
            CacheError: Something that is not a plain file has that name, or the disk is broken.
            Stolen: What would be published is not what was hashed.
        """
        with disk_errors(final.parent):
            no_follow.make_folder(final.parent)
            refuse_odd(final)
            self._require_own()
            self._flushing.wait()  # an error of the disk is reported once: not a second time by fsync
            if read_only and hasattr(os, "fchmod"):
                os.fchmod(self._file.fileno(), os.fstat(self._file.fileno()).st_mode & 0o777 & ~0o222)
            os.fsync(self._file.fileno())
            if read_only:
                # The clock of a file system ticks every few milliseconds. After one tick, a write to the published
                # file cannot have the time of our last write, so that its stamp will tell.
                time.sleep(_TICK)
            if os.name == "nt":
                self._file.close()
            no_follow.replace(self.path, final)
            self._file.close()
            sync_folder(final.parent)
        self._published = True
        with contextlib.suppress(OSError):  # it is of no harm
            for each in files_beside(self.path):
                no_follow.unlink(each)
        return final

    def _require_own(self) -> None:
        ours = os.fstat(self._file.fileno())
        try:
            there = no_follow.status(self.path)
        except FileNotFoundError:
            there = None
        if not there or not os.path.samestat(ours, there) or ours.st_size != self.length:
            raise Stolen(
                f"{self.path} is not the file that was written there",
                cause="another process took this one for dead, or something cleans that folder",
                done="nothing was published",
                hint="try again",
                path=self.path,
            )


def _adopt(folder: Path, stem: str) -> Partial | None:
    """The partial file to continue: the longest that a dead process has left; the others are removed."""
    adopted = None
    for path in partials(folder, stem):
        file = claim(path, files_beside(path))
        if file is None:
            continue
        if adopted is None:
            adopted = _take_over(path, file, stem)
        else:
            remove(path)
            file.close()
    return adopted


def _take_over(path: Path, file: FileIO, stem: str) -> Partial | None:
    """Continue the partial file of a dead process under a name of ours; as a copy where that may come back."""
    if not surely_dead(path):
        return _copied(path, file, stem)
    own = path.with_name(own_name(stem))
    if not move(path, own):
        file.close()
        return None
    partial = Partial(own, file)
    partial.catch_up()
    return partial


def _copied(path: Path, file: FileIO, stem: str) -> Partial:
    """A partial file of our own, with a copy of what is in that of a process that may yet come back."""
    partial = Partial.new(path.parent, stem)
    try:
        while block := file.read(_BLOCK):
            partial.write(block)
    except (OSError, ZooError):  # the bytes are only a saving
        partial.restart()
    file.close()
    move_files_beside(path, partial.path)
    no_follow.unlink(path)
    return partial


def partials(folder: Path, stem: str) -> list[Path]:
    """Partial files of a download, of any owner, to be locked or taken over, the longest first."""
    prefix = f".{stem}."
    result = []
    with contextlib.suppress(OSError):
        for name in no_follow.names(folder):
            if name.startswith(prefix) and name.endswith(SUFFIX):
                with contextlib.suppress(OSError):
                    status = no_follow.status(folder / name)
                    result += [(status.st_size, name)] if stat.S_ISREG(status.st_mode) else []
    return [folder / name for _, name in sorted(result, reverse=True)]


def progress(folder: Path, stem: str) -> list[tuple[str, int, int]]:
    """What changes in the partial files of a download while another process writes to one of them."""
    seen = []
    for path in partials(folder, stem):
        with contextlib.suppress(OSError):
            status = no_follow.status(path)
            seen.append((path.name, status.st_size, status.st_mtime_ns))
    return seen


def files_beside(path: Path) -> list[Path]:
    """The files kept beside a partial file: the note of its origin, and pieces that wait for those before them."""
    with contextlib.suppress(OSError):
        starts = (f"{path.name}{ORIGIN}", f"{path.name}{PIECE}")
        return [path.with_name(name) for name in no_follow.names(path.parent) if name.startswith(starts)]
    return []


def give_up(path: Path) -> None:
    """Give a partial file a name without a process, so that the next one continues it although this one lives on."""
    stem, _, owner = path.name.removesuffix(SUFFIX).rpartition(".")
    host, _, token = owner.split("-")
    move(path, path.with_name(f"{stem}.{host}-{NO_PROCESS}-{token}{SUFFIX}"))


def move(path: Path, new: Path) -> bool:
    """Rename a partial file and what is kept beside it; False when another process was quicker."""
    try:
        no_follow.replace(path, new)
    except OSError:
        return False
    move_files_beside(path, new)
    return True


def move_files_beside(path: Path, new: Path) -> None:
    """Rename the files kept beside a partial file that has another name now."""
    for each in files_beside(path):
        with contextlib.suppress(OSError):
            no_follow.replace(each, new.with_name(new.name + each.name.removeprefix(path.name)))


def remove(path: Path) -> None:
    """Remove a partial file with what is kept beside it.

    Raises:
        OSError: It cannot be removed.
    """
    for each in (path, *files_beside(path)):
        no_follow.unlink(each)


def sweep(folder: Path, *, whole: str = "", spare: float = 0.0) -> int:
    """Remove the partial files in a folder whose processes are dead, and what is left of others; nothing else.

    Args:
        folder: Where they are.
        whole: The stem of a file that has arrived, so that none of its partials is of use.
        spare: Seconds since the last write for which the partials of other stems are spared: their downloads may yet
            be continued.

    Returns:
        How many bytes that freed.
    """
    freed = 0
    with contextlib.suppress(OSError):
        matches = filter(None, map(OWNED.fullmatch, no_follow.names(folder)))
        for name, stem in dict.fromkeys((match["partial"], match["stem"]) for match in matches):
            freed += _swept(folder / name, 0.0 if stem == whole else spare)
    return freed


def _swept(path: Path, spare: float) -> int:
    """Remove a partial file, if its process is dead, with all beside it; give the bytes that this freed."""
    freed = 0
    with contextlib.suppress(OSError):
        try:
            status = no_follow.status(path)
        except FileNotFoundError:
            if surely_dead(path):  # else it is in the middle of being renamed, perhaps
                remove(path)
            return 0
        if time.time() - status.st_mtime < spare or (file := claim(path, files_beside(path))) is None:
            return 0
        with file:
            freed = status.st_size
            remove(path)
    return freed
