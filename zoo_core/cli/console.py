"""Where tables go: to a terminal in its own width, and whole lines to a pipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class OutFile(click.Path):
    """A file that a command will write: one that cannot be written is refused before the work, and not after it.

    Args:
        suffixes: What its name may end in; none for any name.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401 - click's own signature
        """The path, checked."""
        path = Path(os.fsdecode(super().convert(value, param, ctx))).expanduser()
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            self.fail(f"{path}: its name has to end in {' or '.join(self._suffixes)}", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: there is no folder {path.absolute().parent}", param, ctx)
        return path


def complete_model(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """The names of models that begin as what was typed on the console, for the completion of a shell."""
    from zoo_core.registry.zoo import current_zoo

    names = current_zoo().list(f"{incomplete}*")
    return [*names, *(name.partition("/")[2] for name in names if "/" not in incomplete)]


def complete_kept(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """The names of weights in the cache that begin as what was typed on the console."""
    from zoo_core.weights.cache.maintenance import contents
    from zoo_core.weights.cache.store import Cache

    return [item.name for item in contents(Cache())[0] if item.name.startswith(incomplete)]


def complete_family(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """The names of families that begin as what was typed on the console."""
    from zoo_core.registry.zoo import current_zoo

    return [name for name in current_zoo().order if name.startswith(incomplete)]


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
    """Print a line to stderr that is neither a result nor an error, unless ``zoo --quiet`` says to leave it out."""
    if not VERBOSITY.quiet:
        echo(text, err=True)
