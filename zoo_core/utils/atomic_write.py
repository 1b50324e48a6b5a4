"""Files written atomically: the whole new one takes the place of what was there, or nothing does."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zoo_core.errors import ZooError
from zoo_core.utils.no_follow import descriptor, real, replace, unlink
from zoo_core.utils.paths import is_file, is_there


@contextlib.contextmanager
def anew(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: one of a random name, which only this user made, takes the place of ``path`` in the end.

    Whatever was there is replaced, whole or not at all; a link is replaced and never followed.

    Args:
        path: In a folder that is free of links, see :mod:`zoo_core.utils.no_follow`.

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
    """Write a text atomically: a new file of this user's own takes the place of what was there, as by :func:`anew`.

    Raises:
        OSError: The folder cannot be written.
    """
    with anew(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file that a user names atomically: what is written to the path that this gives takes its place.

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
    is_special = is_there(final) and not is_file(final)
    try:
        if is_special or any(folder.is_relative_to(each) for each in ("/dev", "/proc")):
            yield final
            return
        is_old = is_file(final) and not final.is_symlink()
        if is_old and not os.access(final, os.W_OK):
            raise PermissionError(errno.EACCES, "the file is read-only")
        yield new
        if is_old:
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
    """Write an image or a figure atomically, as :func:`whole_file` does any file.

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


def sync_folder(folder: Path) -> None:
    """Make an atomic rename in that folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
