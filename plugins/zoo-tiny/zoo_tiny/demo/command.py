"""``zoo demo``: the main job on the model that ships with zoo, on real data, without a network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.plugin import ZooError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo_tiny.demo.train_on_digits import Digits, Outcome

MODEL = "tiny/glyphnet"
_NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "zoo_tiny": "zoo-tiny"}


@click.command()
@click.option("--epochs", type=click.IntRange(min=1), default=30, show_default=True, help="How long the head learns.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything drawn at random.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("zoo-demo.png"),
    show_default=True,
    help="Where the image goes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def demo(epochs: int, seed: int, output: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    r"""Teach a pretrained network nine handwritten digits, and an untrained one beside it.

    The network that ships with zoo has learned printed letters and signs, and never saw a digit. Its backbone is
    frozen, and a new head of nine classes learns from ten labelled examples of each. The same is then done on a
    backbone with random weights. The difference of the two accuracies is what the pretraining was worth.

    \b
    zoo demo --output curves.png
    """
    _check_needs(output)
    figures = _run(epochs, seed, output, quiet=as_json)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        _report(figures)


def _check_needs(output: Path) -> None:
    """Refuse the command ``zoo demo`` where packages are missing or its image cannot be written."""
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ZooError(
            f"the demo needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="pip install 'zoo-tiny[demo]'",
            missing=tuple(missing),
        )
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(output.parent)!r}", param_hint="--output")
    there_before = output.exists()
    with _writing(output):
        output.open("ab").close()
        if not there_before:
            output.unlink()


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Inside the block, an error of writing the image of ``zoo demo`` names the command's option ``--output``."""
    try:
        yield
    except OSError as error:
        hint = "--output says where it goes"
        raise ZooError(f"the image cannot be written to {output}", got=str(error), hint=hint) from error


def _run(epochs: int, seed: int, output: Path, *, quiet: bool) -> dict[str, Any]:
    """Run the command ``zoo demo``: get, freeze and train both models, draw the image, and return the figures."""
    import zoo_core as zoo
    from zoo_tiny.demo import after, figure, train_on_digits

    started = time.perf_counter()
    digits = train_on_digits.load_digits(seed)
    card = zoo.info(MODEL)
    models = {
        name: zoo.get(MODEL, num_classes=len(train_on_digits.DIGITS), freeze="backbone", seed=seed, weights=weights)
        for name, weights in (("pretrained", "default"), ("random", None))
    }
    outcomes = _train(models, train_on_digits.as_input(digits.scans, card), digits, epochs, seed, quiet=quiet)
    with _writing(output):
        figure.draw(output, MODEL, digits, *outcomes.values())
        used = after.use(models["pretrained"], card, digits, output.with_suffix(""))
    receipt = zoo.receipt(models["pretrained"])
    return {
        "model": MODEL,
        "tag": receipt.tag,
        "sha256": receipt.sha256,
        "strength": receipt.strength,
        "weights": receipt.path,
        "receipt": str(receipt),
        "labelled": len(digits.labelled),
        "held_out": len(digits.held_out),
        "epochs": epochs,
        "seed": seed,
        "accuracy": {name: outcome.accuracy for name, outcome in outcomes.items()},
        "curves": {name: outcome.curve for name, outcome in outcomes.items()},
        "image": str(output),
        **used,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _train(
    models: dict[str, nn.Module], images: Tensor, digits: Digits, epochs: int, seed: int, *, quiet: bool
) -> dict[str, Outcome]:
    """Run the training of the command ``zoo demo``: both models, one after the other, a progress bar for each."""
    from zoo_tiny.demo import train_on_digits

    outcomes = {}
    with train_on_digits.one_thread(), _progress(quiet=quiet) as progress:
        for name, model in models.items():
            task = progress.add_task(name, total=epochs, accuracy=0.0)

            def on_epoch(accuracy: float, task: Any = task) -> None:
                progress.update(task, advance=1, accuracy=accuracy)

            outcomes[name] = train_on_digits.train_head(
                model, images, digits, epochs=epochs, seed=seed, on_epoch=on_epoch
            )
    return outcomes


def _progress(*, quiet: bool) -> Any:
    """The progress bars of the command ``zoo demo``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, accuracy {task.fields[accuracy]:5.1f} %"),
        console=Console(stderr=True, quiet=quiet),
    )


def _report(figures: dict[str, Any]) -> None:
    """Print what the command ``zoo demo`` measured and wrote."""
    accuracy = figures["accuracy"]
    lines = (
        f"weights     {figures['receipt']}",
        f"            sha256 {figures['sha256']}, {figures['strength']}",
        f"data        {figures['labelled']} labelled digits to learn from, {figures['held_out']} held out",
        f"pretrained  {accuracy['pretrained']:5.1f} % accuracy on the held-out digits",
        f"random      {accuracy['random']:5.1f} %",
        f"curves      {figures['image']}",
        f"saved       {figures['saved']}, and loaded from there",
        f"predict     {figures['predicted']} for the held-out digits {figures['truth']}",
        f"cam         {figures['cam']}, which part of the first of them speaks for its class",
        f"report      {figures['report']}, the parts of the model and what trained",
        f"done in     {figures['seconds']:.1f} s",
        f"next        zoo predict {figures['saved']} your-digits/*.png",
    )
    for line in lines:
        click.echo(line)
