"""``zoo push``: a saved folder to the hub."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.cli.console import echo


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("to")
@click.option("--private", is_flag=True, default=None, help="Make a new repository private.")
def push(folder: Path, to: str, *, private: bool | None) -> None:
    r"""Share FOLDER, which zoo.save wrote, as TO on the Hugging Face hub, with a model card written from its recipe.

    \b
    zoo push flowers/ hf://me/flowers
    """
    from zoo_core.recipe.push import push as run

    echo(run(folder, to, private=private))
