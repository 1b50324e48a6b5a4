"""``zoo inspect``: into a checkpoint; ``summary``, ``maps``, ``cam``, ``draw``, ``stats``, ``compare``: into models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_core.cli.console import echo, paragraph
from zoo_core.cli.options import OutFile, complete_model

if TYPE_CHECKING:
    from zoo_core.weights.checkpoint.describe import StateDict


@click.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def inspect(file: str, *, as_json: bool) -> None:
    """Say what FILE is: its state dicts, their prefixes, dtypes, heads and sizes, and the models that they fit.

    Nothing in the file is run, and no model is built.
    """
    from zoo_core.weights.checkpoint.describe import describe
    from zoo_core.weights.checkpoint.read import open_outline

    checkpoint = open_outline(file)
    result = describe(checkpoint)
    averaged = any(each.averaged for each in result)
    lines = []
    for each in result:
        choice = ", ema=False" if averaged and not each.averaged else ""  # averaged weights would be taken first
        lines.append(f"zoo.get({each.matches[0].name!r}, weights={file!r}{choice})" if each.matches else None)
    if as_json:
        records = [{**asdict(each), "load": line} for each, line in zip(result, lines, strict=True)]
        echo(json.dumps({"path": str(checkpoint.path), "state_dicts": records}, indent=2))
        return
    echo(f"{file}: {len(result)} state dict{'s' if len(result) > 1 else ''}")
    for each, line in zip(result, lines, strict=True):
        _print(each, line)


def _print(found: StateDict, line: str | None) -> None:
    """Print what ``zoo inspect`` found in a state dict, and the line that loads it."""
    where = ".".join(found.keys) or "the file itself"
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in found.dtypes.items())
    echo(f"{where}{' (averaged)' if found.averaged else ''}: {found.tensors} tensors, {found.parameters} numbers")
    rows = {
        "prefix": repr(found.prefix) if found.prefix else "",
        "dtypes": kinds,
        "classes": str(found.classes or ""),
        "head": found.head or "",
        "channels": str(found.channels or ""),
        "image size": str(found.image_size or ""),
        "keypoints": str(found.keypoints or ""),
        "odd": ", ".join(f"{name}: {kind}" for name, kind in [*found.odd.items()][:3]),
        "looks like": ", ".join(f"{each.name} {each.score:.0%}" for each in found.matches) or "no model that is known",
        "load": line or "",
    }
    for title, text in rows.items():
        if text:
            paragraph(f"  {title}: {text}")


_FIGURE = OutFile(".svg", ".png", ".pdf")
_IMAGE = OutFile(".png", ".jpg", ".jpeg", ".webp", ".pdf")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--layers", is_flag=True, help="A line for each layer, and not for each stage.")
@click.option("--out", type=OutFile(".html", ".txt"), help="The .html or .txt file to write, instead of printing.")
def summary(model: str, weights: str, out: Path | None, *, layers: bool) -> None:
    r"""Show the parts of MODEL: parameters, what trains, and where the tensors came from.

    \b
    zoo summary resnet50
    zoo summary flowers/ --layers --out flowers.html
    """
    from zoo_core.inspect.summary import summary as summarize
    from zoo_core.recipe.open_model import open_model

    result = summarize(open_model(model, weights=None if weights == "none" else weights))
    result = result.layers() if layers else result
    echo(str(result) if out is None else result.save(out))


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--at", multiple=True, help="A stage, a module path or a glob; every stage unless given.")
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--out", type=_IMAGE, required=True, help="The image file to write.")
def maps(model: str, image: Path, at: tuple[str, ...], weights: str, out: Path) -> None:
    r"""Draw the mean activations of the layers of MODEL over IMAGE.

    \b
    zoo maps resnet50 cat.jpg --at 'layer*' --out maps.png
    """
    from zoo_core.inspect.activation_maps import activation_maps
    from zoo_core.recipe.open_model import open_model

    opened = open_model(model, weights=None if weights == "none" else weights)
    result = activation_maps(opened, image, at=at or None)
    echo(f"{result}\n{result.save(out)}")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--target", help="Name or number of the class; the most probable unless given.")
@click.option("--head", help="Which of several heads the class is of.")
@click.option("--method", default="gradcam", show_default=True, help="Such as gradcam, layercam or hirescam.")
@click.option("--at", help="A stage or a module path, instead of the deepest that gives a map.")
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--out", type=_IMAGE, required=True, help="The image file to write.")
def cam(model: str, image: Path, target: str | None, weights: str, out: Path, **options: str | None) -> None:
    r"""Draw which part of IMAGE speaks for a class of MODEL.

    \b
    zoo cam resnet50 cat.jpg --target 'tabby' --out cam.png
    """
    from zoo_core.inspect.cam import cam as run
    from zoo_core.recipe.open_model import open_model
    from zoo_core.surgery.metadata import class_names_of

    opened = open_model(model, weights=None if weights == "none" else weights)
    is_number = target is not None and target.isdecimal() and target not in class_names_of(opened)
    chosen = int(target or 0) if is_number else target
    result = run(opened, image, target=chosen, **options)  # type: ignore[arg-type]  # method has a default
    echo(f"{result}\n{result.save(out)}")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--full", is_flag=True, help="All modules and operations, through torchview and Graphviz.")
@click.option("--depth", default=3, show_default=True, help="How deep modules are opened with --full.")
@click.option("--out", type=_FIGURE, required=True, help="The .svg, .png or .pdf file to write.")
def draw(model: str, weights: str, out: Path, *, full: bool, depth: int) -> None:
    r"""Draw MODEL: stem, stages and head, each coloured by how much of it trains.

    \b
    zoo draw resnet50 --weights none --out resnet50.svg
    zoo draw flowers/ --full --depth 2 --out flowers.pdf
    """
    from zoo_core.inspect.draw import draw as run
    from zoo_core.recipe.open_model import open_model

    opened = open_model(model, weights=None if weights == "none" else weights)
    echo(run(opened, out, full=full, depth=depth))


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.argument("image", type=click.Path(path_type=Path), required=False)
@click.option("--weights", default="default", show_default=True, help="A tag, a file, or none.")
@click.option("--layers", multiple=True, help="A module path or a glob; every layer unless given.")
@click.option("--stop", type=click.Choice(["nan"]), help="End at the first layer that gives nan or an infinity.")
@click.option("--out", type=_FIGURE, help="Draw the standard deviations to this .png, .svg or .pdf file.")
def stats(
    model: str, image: Path | None, weights: str, layers: tuple[str, ...], stop: str | None, out: Path | None
) -> None:
    r"""Show mean, deviation and peak of what each layer of MODEL gives for IMAGE, or for noise.

    The exit code is 1 where a layer gives nan, infinities, or one value alone.

    \b
    zoo stats resnet50 cat.jpg --out depth.png
    zoo stats resnet18 --weights runs/last.ckpt --stop nan
    """
    from zoo_core.inspect.activation_stats import activation_stats
    from zoo_core.inspect.overlay import view_of
    from zoo_core.recipe.open_model import open_model, require_values
    from zoo_core.surgery.inputs import example_input

    opened = open_model(model, weights=None if weights == "none" else weights).eval()
    require_values(opened)
    x = example_input(opened) if image is None else view_of(opened, image).x
    result = activation_stats(opened, x, layers=layers or None, stop=stop or False)
    echo(result)
    if out is not None:
        echo(result.plot(out))
    if result.first_bad is not None:
        raise SystemExit(1)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_model)
@click.option("--device", help="Where models are measured, such as cuda; the CPU unless given.")
@click.option("--batch-size", default=1, show_default=True, help="Images in a forward.")
@click.option("--out", type=_FIGURE, help="Draw accuracy over time to this .png, .svg or .pdf file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(models: tuple[str, ...], device: str | None, batch_size: int, out: Path | None, *, as_json: bool) -> None:
    r"""Measure MODELs side by side: parameters, multiply-adds, time and memory, beside published accuracy and licence.

    They are built untrained, so nothing is fetched. The exit code is 1 where one cannot be measured.

    \b
    zoo compare resnet18 resnet50 mobilenet_v3_small --out compared.png
    """
    from zoo_core.inspect.compare import compare as run

    result = run(models, device=device, batch_size=batch_size)
    echo(json.dumps(result.to_records(), indent=2) if as_json else result)
    failed = [row for row in result.rows if row.error is not None]
    if out is not None and len(failed) < len(result.rows):
        echo(result.plot(out), err=as_json)
    if failed:
        raise SystemExit(1)
