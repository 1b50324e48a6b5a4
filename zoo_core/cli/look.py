"""``zoo summary``, ``zoo maps`` and ``zoo cam``: look inside a model, and write a file."""

from __future__ import annotations

from pathlib import Path

import click

_OUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model")
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--layers", is_flag=True, help="A line for each layer, and not for each stage.")
@click.option("--out", type=_OUT, help="The .html or .txt file to write, instead of printing.")
def summary(model: str, weights: str, out: Path | None, *, layers: bool) -> None:
    """Show the parts of MODEL: parameters, what trains, and where the tensors came from."""
    from zoo_core.inspect.summary import summary as summarize
    from zoo_core.recipe.opened import open_model

    found = summarize(open_model(model, weights=None if weights == "none" else weights))
    found = found.layers() if layers else found
    click.echo(str(found) if out is None else found.save(out))


@click.command()
@click.argument("model")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--at", multiple=True, help="A stage, a module path or a glob; every stage unless given.")
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--out", type=_OUT, required=True, help="The image file to write.")
def maps(model: str, image: Path, at: tuple[str, ...], weights: str, out: Path) -> None:
    """Draw the mean activations of the layers of MODEL over IMAGE."""
    from zoo_core.inspect.maps import activation_maps
    from zoo_core.recipe.opened import open_model

    opened = open_model(model, weights=None if weights == "none" else weights)
    found = activation_maps(opened, image, at=at or None)
    click.echo(f"{found}\n{found.save(out)}")


@click.command()
@click.argument("model")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--target", help="Name or number of the class; the most probable unless given.")
@click.option("--method", default="gradcam", show_default=True, help="Such as gradcam, layercam or hirescam.")
@click.option("--at", help="A stage or a module path, instead of the deepest that gives a map.")
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--out", type=_OUT, required=True, help="The image file to write.")
def cam(model: str, image: Path, target: str | None, method: str, at: str | None, weights: str, out: Path) -> None:
    """Draw which part of IMAGE speaks for a class of MODEL."""
    from zoo_core.inspect.cam import cam as run
    from zoo_core.recipe.opened import open_model
    from zoo_core.surgery.metadata import class_names_of

    opened = open_model(model, weights=None if weights == "none" else weights)
    is_number = target is not None and target.isdecimal() and target not in class_names_of(opened)
    chosen = int(target or 0) if is_number else target
    found = run(opened, image, target=chosen, method=method, at=at)
    click.echo(f"{found}\n{found.save(out)}")
