"""``zoo predict`` and ``zoo sliding-window``: named results of images, a line each, and maps of scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import VERBOSITY, echo, note, terminal
from zoo_core.cli.options import OutFile, complete_model, device_of
from zoo_core.errors import ImageError
from zoo_core.text import in_one_line
from zoo_core.utils.atomic_write import image_file

if TYPE_CHECKING:
    from zoo_core.prediction.results import Prediction


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--weights", default="default", show_default=True, help="A tag, or a file such as last.ckpt.")
@click.option("--top", default=5, show_default=True, help="How many classes of a classifier.")
@click.option(
    "--threshold",
    type=float,
    help="Several labels: each class this probable. Detectors: the least score; 0.5 unless given.",
)
@click.option("--class-names", type=click.Path(path_type=Path), help="A file with the name of a class on each line.")
@click.option("--preprocessing", metavar="NAME", help="Prepare images as for the model NAME.")
@click.option("--size", type=int, help="Height and width that the model sees.")
@click.option("--draw", type=click.Path(path_type=Path, file_okay=False), help="Write drawn images to this folder.")
@click.option("--batch-size", default=16, show_default=True, help="Images in one pass.")
@click.option("--workers", type=click.IntRange(min=0), help="Threads that read images; one a core unless given.")
@click.option("--device", help="Where the model runs, such as cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON record a line.")
def predict(model: str, images: tuple[str, ...], draw: Path | None, *, as_json: bool, **options: Any) -> None:
    r"""Say what MODEL sees in each IMAGE: files, folders and globs; videos for a video model.

    MODEL is a name, or a folder that zoo.save wrote. An image that cannot be read is named, the others are done, and
    the exit code is 1.

    \b
    zoo predict resnet50 cat.jpg photos/ 'more/**/*.png'
    zoo predict flowers/ photos/ --json > results.jsonl
    zoo predict resnet18 photos/ --weights last.ckpt --class-names names.txt
    zoo predict maskrcnn_resnet50_fpn street.jpg --draw drawn/
    """
    runner = _predictor(model, options, keep=draw is not None)
    total = failed = noted = 0
    for result in _with_progress(runner.run(_sources(images, video=runner.task == "video"))):
        total += 1
        failed += result.error is not None
        noted += bool(result.note)
        if result.error is None and draw is not None:
            _draw(result, draw)
        _print(result, as_json=as_json)
    note(f"{total} image{'s' * (total != 1)}, {failed} failed" + (f", {noted} with a note" if noted else ""))
    if failed:
        raise SystemExit(1)


def _predictor(model: str, options: dict[str, Any], *, keep: bool) -> Any:
    """The model that ``zoo predict`` names, ready to predict as its options say."""
    from zoo_core.prediction.predict import Predictor
    from zoo_core.recipe.open_model import open_model

    weights, preprocessing, device = (options.pop(name) for name in ("weights", "preprocessing", "device"))
    if weights == "none":
        raise click.BadParameter("an untrained model sees nothing", param_hint="--weights")
    opened = open_model(model, weights=weights, preprocessing=preprocessing, device=device_of(device))
    names, workers = _read_class_names(options.pop("class_names")), options.pop("workers")
    return Predictor.of(opened.eval(), class_names=names, num_workers=workers, keep=keep, **options)


def _read_class_names(path: Path | None) -> list[str] | None:
    """Class names in the file of ``zoo predict --class-names``, one a line."""
    try:
        names = None if path is None else path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error  # str() of an OSError names the file again
        raise click.BadParameter(f"{path}: {reason}", param_hint="--class-names") from error
    if names == []:
        raise click.BadParameter(f"{path}: no class name in it", param_hint="--class-names")
    return names


def _sources(images: tuple[str, ...], *, video: bool) -> Iterator[Any]:
    """The images to predict, of all arguments; an argument without any is one that fails."""
    from zoo_core.images.loading import Source, sources_of

    for argument in images:
        try:
            yield from sources_of(argument, video=video)[0]
        except ImageError as error:
            yield Source(argument, error)


def _with_progress(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """The predictions of ``zoo predict``, counted on a terminal."""
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = terminal(stderr=True)
    shown = (
        console.is_terminal and not sys.stdout.isatty() and not VERBOSITY.quiet
    )  # results that scroll by are progress enough
    columns = SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) if shown else nullcontext() as bar:
        task = None if bar is None else bar.add_task("images", total=None)
        for result in predictions:
            yield result
            if bar is not None and task is not None:
                bar.advance(task)


def _print(found: Prediction, *, as_json: bool) -> None:
    """Print one prediction as a line for people or as JSON; an error goes to stderr."""
    from zoo_core.prediction.results import to_line, to_record

    if found.error is not None:
        line = in_one_line(found.error.message)
        echo(f"zoo: {line}", err=True)
        if as_json:
            echo(json.dumps({"image": found.name, "error": line}, ensure_ascii=False))
        return
    if found.note:
        note(f"zoo: {found.name}: {found.note}")
    if as_json:
        record = {"image": found.name, "result": to_record(found.result)}
        echo(json.dumps(record | ({"note": found.note} if found.note else {}), ensure_ascii=False))
    else:
        name = found.name.replace("\n", "\\n")  # a line for each image
        echo(f"{name}: {to_line(found.result)}")


def _draw(found: Prediction, folder: Path) -> None:
    """Write the drawn prediction under the name of its image, and under a number more where that is taken."""
    results = found.result.values() if isinstance(found.result, dict) else [found.result]
    for result in results:
        if not hasattr(result, "draw"):
            raise click.UsageError("--draw is for detectors and segmentation: a classifier has nothing to draw")
        folder.mkdir(parents=True, exist_ok=True)
        stem, number = Path(found.name).stem, 1
        path = folder / f"{stem}.png"
        while path in _drawn:
            number += 1
            path = folder / f"{stem}-{number}.png"
        _drawn.add(path)
        with image_file(path) as new:
            result.draw(found.original).save(new)


_drawn: set[Path] = set()
"""What this process has drawn: files of one name in several folders must not replace one another."""


@click.command("sliding-window")
@click.argument("model", shell_complete=complete_model)
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=OutFile(".npy"), required=True, help="The .npy file to write.")
@click.option("--size", type=int, help="Height and width of a window; those of the weights unless given.")
@click.option("--stride", type=int, help="From one window to the next; the size unless given.")
@click.option(
    "--blend",
    type=click.Choice(["constant", "gaussian"]),
    default="constant",
    show_default=True,
    help="How the logits of overlapping windows are weighted.",
)
@click.option(
    "--outputs",
    type=click.Choice(["scores", "embeddings"]),
    default="scores",
    show_default=True,
    help="What each window gives.",
)
@click.option("--batch-size", default=16, show_default=True, help="Windows in one pass.")
def sliding_window(model: str, image: Path, out: Path, **options: Any) -> None:
    r"""Run MODEL over a large IMAGE window by window, and write [1, classes, rows, columns] to a file.

    A TIFF is read window by window, with zoo-core[tiff].

    \b
    zoo sliding-window resnet50 slide.tif --size 224 --stride 112 --out scores.npy
    zoo sliding-window fcn_resnet50 street.jpg --size 520 --out logits.npy
    """
    from zoo_core.prediction.sliding_window import sliding_window as run

    result = run(model, image, out=out, **options)
    echo(f"{out}: {' x '.join(str(side) for side in result.scores.shape)}")
