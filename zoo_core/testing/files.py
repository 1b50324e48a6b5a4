"""The files that a plugin's code leaves behind, and the programs that it runs, wherever they are."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_TOOLS = ("__pycache__", ".pytest_cache", ".coverage")
"""What other programs than the one that is looked at may write meanwhile."""
_OF_SYSTEM = ("/dev/", "/proc/", "/sys/")
_WRITTEN = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}
"""Events of Python that make a file besides "open", and which of their arguments is its path."""
_PROGRAMS = {"subprocess.Popen": 0, "os.system": 0, "os.posix_spawn": 0}
_IMPORT = "<frozen importlib._bootstrap>"


class Files(NamedTuple):
    """What a block left on the disk.

    Attributes:
        left: The traces, in words.
        beside: Files of the home and of the folder for temporary files that are new there, or were written to. Code in
            C++ may have done so, or another program; what comes up each time is the block's.
    """

    left: list[str]
    beside: set[str]


@contextmanager
def files_left() -> Iterator[Files]:
    """Inside the block, note the files that it leaves, and the programs that it runs.

    Yields:
        Them in words, at the end of the block.

    Example:
        >>> with files_left() as files:
        ...     path = Path(tempfile.mkdtemp())
        >>> files.left == [f"leaves {path}"]
        True
        >>> path.rmdir()
    """
    result = Files([], set())
    here, others = Path.cwd(), {Path(tempfile.gettempdir()).resolve(), _home()} - {Path.cwd(), None}
    before, beside = {*_names(here)}, {folder: _names(folder) for folder in others if folder}
    with _written() as (paths, programs):
        yield result
    paths |= {str(here / name) for name in _names(here) if name not in before}
    left = [path for path in map(Path, sorted(paths)) if path.exists() and not _is_of_tools(path)]
    for path in left:
        place = f"{path.name} in the current folder" if path.parent == here else str(path)
        result.left.append(f"leaves {place}")
    result.left.extend(f"runs {program}" for program in dict.fromkeys(programs))
    for folder, names in beside.items():
        changed = {str(folder / name) for name, time in _names(folder).items() if names.get(name) != time}
        result.beside.update(changed - {*map(str, left)})


def _home() -> Path | None:
    """The home of the user, if there is one."""
    try:
        return Path.home().resolve()
    except RuntimeError:  # a process of no user
        return None


def _names(folder: Path) -> dict[str, int]:
    """What is in a folder, and when each file of it was written to."""
    try:
        with os.scandir(folder) as entries:
            return {each.name: _time(each) for each in entries}
    except OSError:  # it is not there, or not ours to read
        return {}


def _time(entry: os.DirEntry[str]) -> int:
    """When a file was written to; that of a folder moves with what is inside, and says nothing."""
    try:
        return 0 if entry.is_dir() else entry.stat().st_mtime_ns
    except OSError:  # it went meanwhile
        return 0


def _is_of_tools(path: Path) -> bool:
    """Whether a file is one that Python or a tool beside it keeps, or a device."""
    return str(path).startswith(_OF_SYSTEM) or any(part.startswith(_OF_TOOLS) for part in path.parts)


_noted: ContextVar[tuple[set[str], list[str]] | None] = ContextVar("noted", default=None)


@contextmanager
def _written() -> Iterator[tuple[set[str], list[str]]]:
    """Inside the block, gather the paths that this thread writes to, and the programs that it runs."""
    _listen()
    noted: tuple[set[str], list[str]] = (set(), [])
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


@cache
def _listen() -> None:
    """Have Python tell of each file that is opened; it cannot be stopped, and so is begun once."""
    sys.addaudithook(_note)


def _note(event: str, args: tuple[Any, ...]) -> None:
    """Note a file that is written to, or a program that is run, unless a module that is imported does so."""
    noted = _noted.get()
    if noted is None or (event != "open" and event not in _WRITTEN and event not in _PROGRAMS):
        return
    path = args[{**_WRITTEN, **_PROGRAMS}.get(event, 0)]
    if not isinstance(path, str | bytes | os.PathLike) or (event == "open" and not _is_to_write(*args[1:3])):
        return
    frame = sys._getframe(1)  # noqa: SLF001 - the way to a caller
    while frame.f_back is not None and frame.f_code.co_filename != _IMPORT:
        frame = frame.f_back
    if frame.f_code.co_filename == _IMPORT:
        return
    if event in _PROGRAMS:
        noted[1].append(Path(os.fsdecode(path)).name)
    else:
        noted[0].add(str(Path(os.fsdecode(path)).absolute()))


def _is_to_write(mode: str | None, flags: int | None) -> bool:
    """Whether a file is opened to write to it."""
    return bool({*(mode or "")} & {*"wax+"}) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
