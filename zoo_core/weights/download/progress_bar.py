"""How far a download is: a bar on a terminal, and a line every half minute in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from zoo_core import settings
from zoo_core.text import visible

_EVERY = 30.0
"""Seconds between two lines: services that run jobs end one that has been silent for some minutes."""


@contextlib.contextmanager
def progress_bar(name: str, size: int | None, show: bool | None) -> Iterator[Callable[[int, int | None], None]]:  # noqa: FBT001 - as the public functions take it
    """Give a function that shows the progress of a download, from the bytes so far and the total.

    Args:
        name: What is being fetched.
        size: Its length in bytes, when known.
        show: True or False; None asks ``ZOO_PROGRESS``. Without an answer, downloads that take long are reported.
    """
    if show is None:
        show = settings.progress()
    if show is False or sys.stderr is None or getattr(sys.stderr, "closed", False):  # as of a program without a console
        yield lambda _done, _total: None
    elif not _is_terminal(sys.stderr):
        yield _lines(name, size, sys.stderr, at_once=bool(show))
    else:
        with _bar(name, size) as advance:
            yield advance


def _is_terminal(stream: TextIO) -> bool:
    """Whether progress is shown on a terminal, as a bar, and not in a log."""
    try:
        return stream.isatty()
    except (AttributeError, OSError, ValueError):  # a logger that takes the place of stderr
        return False


def _lines(name: str, size: int | None, stream: TextIO, *, at_once: bool) -> Callable[[int, int | None], None]:
    """What writes a line about the progress of a download to a log now and then; the first at once, on request."""
    due = 0.0 if at_once else time.monotonic() + _EVERY

    def advance(done: int, total: int | None) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _EVERY
            length = f"{done / 1e6:,.1f} MB" if total is None else f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a download is worth more than its log
                stream.write(f"{name}: {length}\n")
                stream.flush()

    if at_once:
        advance(0, size)
    return advance


@contextlib.contextmanager
def _bar(name: str, size: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(visible(name), total=size)
        yield lambda done, total: bar.update(task, completed=done, total=total)
