"""Options and arguments that several commands have: what a shell completes, devices, and files to write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from zoo_core.registry.zoo import current_zoo
from zoo_core.utils.paths import is_folder


class OutFile(click.Path):
    """An option for a file that a command will write: one that cannot be written is refused before the work.

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
        if not is_folder(path.absolute().parent):
            self.fail(f"{path}: there is no folder {path.absolute().parent}", param, ctx)
        return path


def complete_model(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Shell completion of an argument: the names of models that begin as what was typed."""
    names = current_zoo().list(f"{incomplete}*")
    return [*names, *(name.partition("/")[2] for name in names if "/" not in incomplete)]


def complete_kept(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Shell completion of an argument: the names of weights in the cache that begin as what was typed."""
    from zoo_core.weights.cache.inventory import contents
    from zoo_core.weights.cache.store import Cache

    return [item.name for item in contents(Cache())[0] if item.name.startswith(incomplete)]


def complete_family(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Shell completion of an argument: the names of families that begin as what was typed."""
    return [name for name in current_zoo().order if name.startswith(incomplete)]


def device_of(name: str | None) -> Any:
    """The device that the option ``--device`` of a command names; None for none."""
    import torch

    try:
        return None if name is None else torch.device(name)
    except RuntimeError as error:
        raise click.BadParameter(str(error).splitlines()[0], param_hint="--device") from error
