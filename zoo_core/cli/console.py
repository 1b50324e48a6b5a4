"""Where tables go: to a terminal in its own width, and whole lines to a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_UNBROKEN = 10_000  # columns: a program that reads a path or a digest wants it in one piece


def terminal() -> Console:
    """A console on stdout that highlights nothing, and breaks lines only where somebody sees them."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _UNBROKEN)
