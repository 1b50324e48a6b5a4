"""The ``zoo`` command line: one file a command group, each imported when it is used."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any

from zoo_core.cli.console import INTERRUPTED, VERBOSITY, discard_output, open_streams, show_warning
from zoo_core.cli.list_without_click import list_plainly
from zoo_core.errors import ImageError, UsageError, ZooError
from zoo_core.text import in_one_line


def main() -> None:
    """Run a command line of ``zoo``, that of the process; an error is a few lines on stderr.

    The exit code is 2 for wrong usage, 1 for a failure, output that could not be written included, and 130 after
    Ctrl-C.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # no process that is started from here imports what the current folder holds
    warnings.showwarning = show_warning  # type: ignore[assignment]  # it takes the rest as *rest
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")  # Pillow's, of an image that is read
    open_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        discard_output()
        code = 1
    except OSError as error:  # those of files are told where they happen: this one is of the output
        discard_output()
        sys.stderr.write(f"zoo: the output could not be written: {error.strerror or error}\n")
        code = 1
    sys.exit(code)


def _run() -> Any:
    """Import and run one command of the group ``zoo``, and give the exit code: whatever ``sys.exit`` takes."""
    try:
        if not list_plainly(sys.argv[1:]):
            from zoo_core.cli.group import zoo

            zoo.main(standalone_mode=True, prog_name="zoo")
    except ZooError as error:
        if VERBOSITY.verbose:
            traceback.print_exception(error)
        sys.stderr.write(f"zoo: {in_one_line(error.message) if isinstance(error, ImageError) else error}\n")
        return 2 if isinstance(error, UsageError) else 1
    except (ImportError, OSError) as error:
        of_file = getattr(error, "filename", None) is not None
        if getattr(error, "errno", None) is not None and not of_file:
            raise
        if VERBOSITY.verbose:  # a library is broken, such as a torch whose parts do not belong together
            traceback.print_exception(error)
        hint = _NEXT_OF_FILE if of_file else _NEXT
        sys.stderr.write(f"zoo: {type(error).__name__}: {error}\n  next step: {hint}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Aborted!\n")
        return INTERRUPTED
    except SystemExit as end:
        return end.code
    return 0


_NEXT = "zoo doctor imports what is installed and says what is wrong; zoo --verbose shows where this was raised"
_NEXT_OF_FILE = "check the path, and who may read and write there; zoo --verbose shows where this was raised"
