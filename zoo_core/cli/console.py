"""The console: tables in the width of a terminal, whole lines to a pipe; streams that are closed or lack letters."""

from __future__ import annotations

import codecs
import os
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zoo_core.errors import ZooWarning
from zoo_core.text import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

_USUAL_SHOWWARNING = warnings.showwarning

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
    import click  # which a plain ``zoo list`` does without

    click.echo(visible(str(text)), err=err)


def paragraph(text: object, *, indent: int = 4) -> None:
    """Print a line of text on the console: on a terminal it is broken between words, and goes on indented."""
    import click  # as above

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


class Verbosity:
    """How much is written to the console besides results and errors.

    Attributes:
        quiet: Whether notes and warnings are left out.
        verbose: Whether an error has its traceback.
    """

    quiet = False
    verbose = False


VERBOSITY = Verbosity()
"""As the command line of this process says."""

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C has ended, as shells give it."""


def open_streams() -> None:
    """Make both streams of the console usable: closed output fails when it is written, and closed errors vanish."""
    if sys.stdout is None:  # its number is taken too, so that no other file gets it and what libraries print
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole run, and no path
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole run
    codecs.register_error("zoo", _as_it_is)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="zoo")


def discard_output() -> None:
    """Send what is still to be written to the console nowhere: Python would fail a second time when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_it_is(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encoding error handler of the console: file names in their own bytes, other letters escaped."""
    for handler in ("surrogateescape", "backslashreplace"):
        try:
            return codecs.lookup_error(handler)(error)
        except UnicodeError:
            continue
    raise error


def show_warning(message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """Show zoo's warnings as the ``zoo`` command line does: on stderr, without the file and line that they are from."""
    if issubclass(category, ZooWarning):
        sys.stderr.write(f"zoo: warning: {message}\n")
    else:
        _USUAL_SHOWWARNING(message, category, *rest)
