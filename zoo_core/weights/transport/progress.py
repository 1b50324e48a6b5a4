"""A progress bar for people, and none for logs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from zoo_core import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(name: str, size: int | None, show: bool | None) -> Iterator[Callable[[int, int | None], None]]:  # noqa: FBT001 - as the public doors call it
    """Give a function that takes the bytes so far and the total.

    Args:
        name: What is being fetched.
        size: Its length in bytes, when known.
        show: True or False; None asks ``ZOO_PROGRESS``, and else shows it where standard error is a terminal.
    """
    if show is None:
        show = settings.progress()
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=size)
        yield lambda done, total: bar.update(task, completed=done, total=total)
