"""Standard output and standard error as they are: closed, full, or in an encoding that lacks some letters."""

from __future__ import annotations

import codecs
import os
import sys


class Verbosity:
    """How much is written to the standard streams besides results and errors.

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
    """Make both streams usable. Output that was closed fails when it is written, and errors that were closed vanish."""
    if sys.stdout is None:  # its number is taken too, so that no other file gets it and what libraries print
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole run, and no path
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole run
    codecs.register_error("zoo", _as_it_is)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="zoo")


def discard_output() -> None:
    """Send what is still to be written to stdout nowhere: Python would fail a second time when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_it_is(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encoding error handler of standard output and error: file names in their own bytes, other letters escaped."""
    for handler in ("surrogateescape", "backslashreplace"):
        try:
            return codecs.lookup_error(handler)(error)
        except UnicodeError:
            continue
    raise error
