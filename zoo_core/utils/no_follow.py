"""Files in folders that others may have filled, opened and changed so that no link is followed.

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
from collections.abc import Iterator
from pathlib import Path

from zoo_core.errors import CacheError

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _NO_FOLLOW
_IN_FOLDERS = bool(_NO_FOLLOW) and os.open in os.supports_dir_fd
_LONGEST = 4096
"""Bytes of a path, as Linux counts them; macOS takes fewer, and refuses more by itself."""
_ODD = {errno.ENOTDIR, errno.ELOOP}
_MOST_TEXT = 64 << 20
"""Bytes of a text that is read: a lock of all that timm has is 2 MB, and a file with a hole in it has any size."""


def real(path: Path, *, strict: bool = False) -> Path:
    """Follow the links in a path that a user named, once: what is below that folder is reached without following any.

    Unlike ``Path.resolve`` of Python 3.12 and older it raises no RuntimeError for a link to itself.

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
    """Read the text of a plain file, in UTF-8, without following a link.

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
    """Give a file, which may be anywhere, a second name, a hard link, and follow no symbolic link to that.

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
    """The last name of a path, and its folder, opened without following a link; the path and None where unable."""
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
    """Refuse to follow a link on a path, where the system cannot open its folders step by step."""
    for each in (*reversed(folder.parents), folder):
        if each.is_symlink():
            raise _is_in_the_way(each, "a symbolic link")
    if make:
        folder.mkdir(parents=True, exist_ok=True)


def _is_in_the_way(path: Path, what: str) -> CacheError:
    """The error for a path on which a link, which is not followed, or what is no folder, is in the way."""
    return CacheError(
        f"{path} is {what}",
        expected="a folder",
        done="nothing was written",
        hint="remove it, after a look at who put it there",
        path=path,
    )
