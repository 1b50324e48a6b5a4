"""``zoo mirror`` and ``zoo bundle``: bring weights to machines that cannot, or should not, fetch them from afar."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.cli.console import echo
from zoo_core.weights import Cache
from zoo_core.weights.cache import inventory


@click.group()
def mirror() -> None:
    """Serve weights to other machines."""


@mirror.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("pattern", nargs=-1)
def export_mirror(folder: Path, pattern: tuple[str, ...]) -> None:
    """Write the weights in the cache, or those that match PATTERN, to FOLDER for any web server or bucket to serve.

    Other machines use it with ZOO_MIRROR=https://host/folder.
    """
    from zoo_core.weights.cache import mirrors

    kept, _ = inventory.contents(Cache(), pattern)
    count = mirrors.export_mirror(Cache(), kept, folder)
    echo(f"{count} file{'' if count == 1 else 's'} in {folder}; serve it, and set ZOO_MIRROR to its url")


@click.group()
def bundle() -> None:
    """Carry weights to a machine without a network, in one file."""


@bundle.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("pattern", nargs=-1)
def export_bundle(file: Path, pattern: tuple[str, ...]) -> None:
    """Write the weights in the cache, or those that match PATTERN, to FILE."""
    from zoo_core.weights.cache import bundle as bundles

    kept, _ = inventory.contents(Cache(), pattern)
    count = bundles.export_bundle(Cache(), kept, file)
    echo(f"{count} names in {file}; `zoo bundle import {file.name}` takes them in elsewhere")


@bundle.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_bundle(file: Path) -> None:
    """Take the weights in FILE into the cache; each is hashed on its way in."""
    from zoo_core.weights.cache import bundle as bundles

    for name in bundles.import_bundle(Cache(), file):
        echo(name)
