"""The files that a plugin's code leaves behind, and the programs that it runs, wherever they are."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_TOOLS = ("__pycache__", ".pytest_cache", ".coverage")
"""What other programs than the one that is looked at may write meanwhile."""
_OF_SYSTEM = ("/dev/", "/proc/", "/sys/")
_WRITTEN = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}
"""Events of Python that make a file besides "open", and which of their arguments is its path."""
_PROGRAMS = {"subprocess.Popen": 0, "os.system": 0, "os.posix_spawn": 0}
_IMPORT = "<frozen importlib._bootstrap>"


@contextmanager
def files_left() -> Iterator[list[str]]:
    """Inside the block, note the files that it leaves, and the programs that it runs.

    What code in C++ or Rust writes is seen in the current folder, and in a :func:`temporary_folder`.

    Yields:
        Them in words, at the end of the block.

    Example:
        >>> with files_left() as traces:
        ...     path = Path(tempfile.mkdtemp())
        >>> traces == [f"leaves {path}"]
        True
        >>> path.rmdir()
    """
    traces: list[str] = []
    here = Path.cwd()
    before = {*here.iterdir()}
    with _written() as (paths, programs):
        yield traces
    paths |= {str(path) for path in here.iterdir() if path not in before}
    left = [path for path in map(Path, sorted(paths)) if path.exists() and not _is_of_tools(path)]
    traces += [f"leaves {f'{path.name} in the current folder' if path.parent == here else path}" for path in left]
    traces.extend(f"runs {program}" for program in dict.fromkeys(programs))


@contextmanager
def temporary_folder() -> Iterator[list[str]]:
    """Inside the block, temporary files of a plugin's code go to an empty folder, where no other program writes.

    Yields:
        What was left in it, in words, at the end of the block.
    """
    traces: list[str] = []
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield traces
        finally:
            tempfile.tempdir = before[0]
            del os.environ["TMPDIR"]
            os.environ.update({"TMPDIR": before[1]} if before[1] is not None else {})
        traces += [f"leaves {path.name} in the folder for temporary files" for path in sorted(Path(folder).iterdir())]


def _is_of_tools(path: Path) -> bool:
    """Whether a file that is left behind is one that Python or a tool beside it keeps, or a device."""
    return str(path).startswith(_OF_SYSTEM) or any(part.startswith(_OF_TOOLS) for part in path.parts)


_noted: ContextVar[tuple[set[str], list[str]] | None] = ContextVar("noted", default=None)


@contextmanager
def _written() -> Iterator[tuple[set[str], list[str]]]:
    """Inside the block, gather the files that this thread's code writes to, by path, and the programs that it runs."""
    _listen()
    noted: tuple[set[str], list[str]] = (set(), [])
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


@cache
def _listen() -> None:
    """Have Python tell of each file opened and program run; it cannot be stopped, and so is begun once."""
    sys.addaudithook(_note)


def _note(event: str, args: tuple[Any, ...]) -> None:
    """Note a file that a plugin's code writes to, or a program that it runs, unless an import of a module does so."""
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
