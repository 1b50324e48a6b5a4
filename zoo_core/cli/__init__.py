"""The ``zoo`` command line: one file a command group, each imported when it is used."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from zoo_core.cli.listing import list_plainly
from zoo_core.errors import UsageError, ZooError, ZooWarning


def main() -> None:
    """Run ``zoo``; an error is a few lines on stderr, and exit code 2 for wrong usage or 1 for failure."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes the rest as *rest
    try:
        if not list_plainly(sys.argv[1:]):
            from zoo_core.cli.group import zoo

            zoo.main(standalone_mode=True, prog_name="zoo")
    except ZooError as error:
        sys.stderr.write(f"zoo: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit("Aborted!")
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written goes nowhere
        sys.exit(1)


_usual_showwarning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any) -> None:  # noqa: ANN401 - warnings' signature
    if issubclass(category, ZooWarning):
        sys.stderr.write(f"zoo: warning: {message}\n")
    else:
        _usual_showwarning(message, category, *rest)
