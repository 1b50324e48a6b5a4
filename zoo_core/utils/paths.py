"""Paths as people write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zoo_core.errors import UsageError


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder in place of a leading ``~``.

    Raises:
        UsageError: It is no path, or empty, or the user has no home folder that the system knows.

    Example:
        >>> expand("runs/last.ckpt").as_posix()
        'runs/last.ckpt'
    """
    try:
        result = Path(path)
    except TypeError as error:
        raise UsageError(f"not a path: {path!r:.200}", expected="a string or a pathlib.Path", path=path) from error
    if path == "" or "\0" in str(result):
        cause = "a zero byte is in it" if path else "it is empty; '.' is the folder you are in"
        raise UsageError(f"not a path: {path!r:.200}", cause=cause, path=path)
    try:
        return result.expanduser()
    except RuntimeError as error:  # a container whose user is only a number
        user = result.parts[0][1:]
        raise UsageError(
            f"{path} begins in a home folder that is not known",
            cause=f"there is no user {user!r}"
            if user
            else "HOME is not set, and this user has no entry in the password file",
            hint="give the whole path" if user else "set HOME, or give the whole path",
            path=path,
        ) from error


def in_utf8(path: Path, number: int) -> Path:
    r"""The path, or another one of the same file where its name is no UTF-8: C++ and Rust take no other.

    Args:
        path: Of a file.
        number: Of the same file, open.

    Example:
        >>> in_utf8(Path("net.pth"), 7), in_utf8(Path("net\udcff.pth"), 7)
        (PosixPath('net.pth'), PosixPath('/dev/fd/7'))
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Path(f"/dev/fd/{number}")
    return path


def import_path() -> list[str]:
    """Paths of ``sys.path`` on which another Python is to look for modules: all of them, without the current folder.

    What is installed in it as editable is found all the same.

    Example:
        >>> "" in import_path()
        False
    """
    try:
        here = os.path.realpath(Path.cwd())
    except OSError:  # it has been removed
        here = ""
    return [entry for entry in sys.path if entry and os.path.realpath(entry) != here]


def and_above(folder: Path | None = None) -> tuple[Path, ...]:
    """A folder, the current one unless given, and those that it is in; none where the current one was removed.

    Example:
        >>> [path.as_posix() for path in and_above(Path("/runs/first"))]
        ['/runs/first', '/runs', '/']
    """
    try:
        first = (folder or Path.cwd()).absolute()
    except OSError:
        return ()
    return (first, *first.parents)


# Functions of os.path, since methods of Path raise, before Python 3.14, for a path that the system cannot have, or that
# is in a folder it keeps closed. Opening the file has the better message.
is_there = os.path.exists
is_file = os.path.isfile
is_folder = os.path.isdir
is_link = os.path.islink


def is_written_as_path(name: object) -> bool:
    """Whether something is a path, or a string that no name of a model can be.

    Example:
        >>> is_written_as_path("./flowers"), is_written_as_path("flowers/"), is_written_as_path("timm/resnet18")
        (True, True, False)
    """
    if isinstance(name, str):
        return name.startswith(("./", "../", "/", "~/")) or name.endswith("/")
    return isinstance(name, Path)
