"""Files in folders that others may have filled: no link is followed, and only this user's are believed.

Each folder on the way is opened in the one before it, so that what is checked is what is used. The paths are absolute
and free of links: :func:`real` resolves those by which a user reaches a folder of their own, and what is below that
folder was put there by others who write to it. Where the system cannot open a file in an open folder, as on Windows,
each folder on the way is looked at before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zoo_core.errors import CacheError, ZooError, ZooWarning

if TYPE_CHECKING:
    from collections.abc import Iterator


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _NO_FOLLOW
_IN_FOLDERS = bool(_NO_FOLLOW) and os.open in os.supports_dir_fd
_LONGEST = 4096
"""Bytes of a path, as Linux counts them; macOS takes fewer, and refuses more by itself."""
_ODD = {errno.ENOTDIR, errno.ELOOP}
_MOST_TEXT = 64 << 20
"""Bytes of a text that is read: a lock of all that timm has is 2 MB, and a file with a hole in it has any size."""


def real(path: Path, *, strict: bool = False) -> Path:
    """What its user named, as the links of theirs say: what is below such a folder is reached without following any.

    Unlike ``Path.resolve`` of Python 3.12 and older it raises no RuntimeError for a link to itself.

    Args:
        path: A file or folder.
        strict: Whether it has to be there.

    Raises:
        OSError: It is not, where it has to be.

    Example:
        >>> real(Path("/tmp/../")).as_posix()
        '/'
    """
    return Path(os.path.realpath(path, strict=strict))


def descriptor(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """A plain file, opened without following a link.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
        CacheError: A folder on the way is a link.
    """
    with _within(path) as (name, folder):
        opened = os.open(name, flags | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0), mode, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return opened


def read_text(path: Path) -> str:
    """The text of a plain file, in UTF-8, read without following a link.

    Raises:
        OSError: It cannot be read, is not a plain file, or has more than 64 MB.
        UnicodeDecodeError: It is not UTF-8.
    """
    with open(descriptor(path), encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_size > _MOST_TEXT:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def status(path: Path) -> os.stat_result:
    """What the file system says of a file; of a link itself, which is not followed.

    Raises:
        OSError: There is none.
    """
    with _within(path) as (name, folder):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted, without following a link to it.

    Raises:
        OSError: There is no such folder.
    """
    if not _IN_FOLDERS:
        with _within(folder / "."):
            return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that is needed
    with _within(folder / "x") as (_, inside):
        listed = os.open(".", os.O_RDONLY | _NO_FOLLOW, dir_fd=inside)
        try:
            return sorted(os.listdir(listed))  # noqa: PTH208 - names are all that is needed
        finally:
            os.close(listed)


def is_folder(path: Path) -> bool:
    """Whether there is a folder, and no link to one, which is not followed."""
    try:
        return stat.S_ISDIR(status(path).st_mode)
    except OSError:
        return False


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in, where they are missing, without following a link.

    Raises:
        OSError: It cannot be made.
    """
    with _within(path / "x", make=True):
        pass


def unlink(path: Path) -> None:
    """Remove a file or a link itself, if it is there, and follow none on the way.

    Raises:
        OSError: It cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError), _within(path) as (name, folder):
        os.unlink(name, dir_fd=folder)


def remove_folder(path: Path) -> None:
    """Remove an empty folder, and follow no link on the way.

    Raises:
        OSError: It cannot be removed.
    """
    with _within(path) as (name, folder):
        os.rmdir(name, dir_fd=folder)


def replace(path: Path, new: Path) -> None:
    """Rename a file, in the place of what has the new name, and follow no link to either.

    Raises:
        OSError: It cannot be renamed.
    """
    with _within(path) as (name, folder), _within(new) as (new_name, new_folder):
        os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)


def link(source: Path, path: Path) -> None:
    """Give a file, which may be anywhere, a second name in a folder, without following a link to that.

    Raises:
        OSError: It cannot have one there.
    """
    with _within(path) as (name, folder):
        os.link(source, name, dst_dir_fd=folder)


def touch(path: Path) -> None:
    """Give a file the time that it is now, without following a link.

    Raises:
        OSError: There is none, or it is not ours.
    """
    with _within(path) as (name, folder):
        os.utime(name, dir_fd=folder, follow_symlinks=False)


@contextlib.contextmanager
def _within(path: Path, *, make: bool = False) -> Iterator[tuple[str, int | None]]:
    """The last name of a path, and the folder that it is in, opened without a link; the path and None where unable."""
    if not _IN_FOLDERS:
        _look_at(path.parent, make=make)
        yield str(path), None
        return
    if len(os.fsencode(path)) >= _LONGEST:  # what is made step by step could not be opened by its whole path
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    folder = os.open(path.anchor, _FOLDER)
    try:
        for depth, name in enumerate(path.parts[1:-1], start=2):
            inner = _step(folder, name, path.parents[len(path.parts) - depth - 1], make=make)
            os.close(folder)
            folder = inner
        yield path.name, folder
    finally:
        os.close(folder)


def _step(folder: int, name: str, path: Path, *, make: bool) -> int:
    """A folder in an open one, opened without following a link."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        if error.errno not in _ODD:
            raise
        is_link = stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if is_link or make:
            raise _is_in_the_way(path, "a symbolic link" if is_link else "not a folder") from error
        raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
    return _step(folder, name, path, make=False)


def _look_at(folder: Path, *, make: bool) -> None:
    """Refuse a path on which a folder is a link, where the system cannot open folders step by step."""
    for each in (*reversed(folder.parents), folder):
        if each.is_symlink():
            raise _is_in_the_way(each, "a symbolic link")
    if make:
        folder.mkdir(parents=True, exist_ok=True)


def _is_in_the_way(path: Path, what: str) -> CacheError:
    """The error for a path on which a link, or what is no folder, is in the way."""
    return CacheError(
        f"{path} is {what}",
        expected="a folder",
        done="nothing was written",
        hint="remove it, after a look at who put it there",
        path=path,
    )


@contextlib.contextmanager
def anew(path: Path) -> Iterator[BinaryIO]:
    """A file of a random name beside ``path``, made by this user alone, that takes its place when it has been written.

    Whatever was there is replaced, whole or not at all; a link is replaced and never followed.

    Args:
        path: In a folder that is free of links, see :mod:`zoo_core.utils.private_files`.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    opened = descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(opened, "wb") as file:
            yield file
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(temporary)
        raise


def write_anew(path: Path, text: str) -> None:
    """Put a text in the place of whatever is there, in a file of this user's own making, as :func:`anew` does.

    Raises:
        OSError: The folder cannot be written.
    """
    with anew(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path of a random name beside ``path``, for a file that a user names: what is written there takes its place.

    So the file is the whole new one, or as it was, also where the disk is full. It keeps the permissions that it had,
    and one that is read-only is refused. A link is replaced and never followed.
    A pipe or a device, and all that is in ``/dev`` and ``/proc``, is written to as it is.

    Args:
        path: The file; libraries tell the format from its suffix, which the other path has too.

    Raises:
        ZooError: It cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), "net.txt")
        >>> with whole_file(file) as new:
        ...     _ = new.write_text("all of it")
        >>> file.read_text(), new.exists()
        ('all of it', False)
    """
    final = Path(path).absolute()  # the caller may change the current folder meanwhile
    new = final.with_name(f".{os.urandom(8).hex()}{final.suffix}")
    folder = real(final.parent)
    is_special = final.exists() and not final.is_file()
    try:
        if is_special or any(folder.is_relative_to(each) for each in ("/dev", "/proc")):
            yield final
            return
        is_there = final.is_file() and not final.is_symlink()
        if is_there and not os.access(final, os.W_OK):
            raise PermissionError(errno.EACCES, "the file is read-only")
        yield new
        if is_there:
            new.chmod(stat.S_IMODE(final.stat().st_mode))
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(final)
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        may_not = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        place = "in a folder that you may write to" if may_not else "in a folder that exists"
        hint = "free some space, or name a file elsewhere" if is_full else f"name a file {place}"
        raise ZooError(f"cannot write {path}", cause=error.strerror or str(error), hint=hint) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


@contextlib.contextmanager
def image_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`whole_file`, for an image or a figure.

    Raises:
        ZooError: It cannot be written, or its suffix is none that the library knows.
    """
    try:
        with whole_file(path) as new:
            yield new
    except ValueError as error:  # so Pillow and matplotlib say it of a suffix
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"cannot write {path}", cause=str(error), hint="a suffix such as .png or .pdf") from error


def take_space(path: Path) -> None:
    """Take the room on the disk for a file that is to be mapped: where none is left, writing to a map ends the process.

    Args:
        path: A file with its whole length.

    Raises:
        OSError: There is not so much room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def believed(path: str, instead: str) -> bool:
    """Whether something found upward from the current folder is private: this user's, and theirs alone to write.

    What is not is passed over, as git does, with one warning.

    Args:
        path: What was found.
        instead: What the user sets to have it all the same.
    """
    reason = _foreign(path)
    if reason:
        pass_over(path, reason, instead)
    return not reason


def _foreign(path: str) -> str:
    """Why a file is not private: another user owns it, or may write to it or its folder; empty where it is."""
    if not hasattr(os, "geteuid"):
        return ""
    for each, what in ((path, "it"), (os.path.dirname(path), "its folder")):  # noqa: PTH120 - called on every use
        try:
            status, link = os.stat(each), os.lstat(each)  # noqa: PTH116
        except OSError as error:
            return f"{what} cannot be looked at: {error.strerror}"
        is_sticky_folder = each != path and status.st_mode & stat.S_ISVTX
        if each == path and {status.st_uid, link.st_uid} != {os.geteuid()}:  # of a link, both
            return f"{what} belongs to another user"
        if status.st_mode & stat.S_IWOTH and not is_sticky_folder:
            return f"{what} can be written by every user"
    return ""


@lru_cache(maxsize=256)
def pass_over(path: str, reason: str, instead: str) -> None:
    """Warn, once, of a file that was found and is not obeyed, since others than this user may have written it.

    Args:
        path: What was found.
        reason: Why not.
        instead: What the user sets to have it all the same.
    """
    warnings.warn(
        f"{path} is passed over: {reason}; {instead}={path} has it obeyed all the same", ZooWarning, stacklevel=5
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in that folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
