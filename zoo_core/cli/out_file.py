"""A file that a command will write, checked before its work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class OutFile(click.Path):
    """An out file that a command will write: one that cannot be written is refused before the work, not after it.

    Args:
        suffixes: What its name may end in; none for any name.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, checked."""
        path = Path(os.fsdecode(super().convert(value, param, ctx))).expanduser()
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            self.fail(f"{path}: its name has to end in {' or '.join(self._suffixes)}", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: there is no folder {path.absolute().parent}", param, ctx)
        return path
