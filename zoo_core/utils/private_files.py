"""Files in folders that others may have filled: written without following links, and believed only from this user."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zoo_core.errors import ZooError, ZooWarning
from zoo_core.utils import no_follow

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def anew(path: Path) -> Iterator[BinaryIO]:
    """A file of a random name beside ``path``, made by this user alone, that takes its place when it has been written.

    Whatever was there is replaced, whole or not at all; a link is replaced and never followed.

    Args:
        path: In a folder that is free of links, see :mod:`zoo_core.utils.no_follow`.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    descriptor = no_follow.descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        no_follow.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            no_follow.unlink(temporary)
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
    folder = no_follow.real(final.parent)
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
