"""Where tables go: to a terminal in its own width, and whole lines to a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from zoo_core.cli.streams import VERBOSITY
from zoo_core.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

_UNBROKEN = 10_000  # columns: a program that reads a path or a digest wants it in one piece


def terminal(*, stderr: bool = False) -> Console:
    """A console that highlights nothing, shows control characters as escapes, and breaks lines only on a terminal."""
    from rich.console import Console

    class _Visible(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    is_wrapped = stderr or sys.stdout.isatty()
    width = None if is_wrapped else _UNBROKEN
    return _Visible(highlight=False, soft_wrap=not is_wrapped, width=width, stderr=stderr)


def echo(text: object, *, err: bool = False) -> None:
    """Print a line on the console; control characters in a stranger's names or sources are shown as escapes."""
    click.echo(visible(str(text)), err=err)


def paragraph(text: object, *, indent: int = 4) -> None:
    """Print a line of text on the console: on a terminal it is broken between words, and goes on indented."""
    line = visible(str(text))
    if sys.stdout.isatty():
        import shutil
        import textwrap

        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(
            line, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    click.echo(line)


def note(text: object) -> None:
    """Print a note on the console, to stderr: neither a result nor an error, and left out by ``zoo --quiet``."""
    if not VERBOSITY.quiet:
        echo(text, err=True)
