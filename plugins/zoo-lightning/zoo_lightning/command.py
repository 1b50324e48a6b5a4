"""``zoo finetune``: the command."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.plugin import visible

if TYPE_CHECKING:
    from zoo_lightning.data import ImageData


def _say(text: str, *, err: bool = False) -> None:
    """Print a line of the command ``zoo finetune``; no escape in a stranger's names reaches the terminal."""
    click.echo(visible(text), err=err)


def _epochs_of_parts(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """Parse what the command is given as ``--unfreeze-at``, such as ``layer4=3``, as part and epoch."""
    pairs = [value.rpartition("=") for value in values]
    for part, _equals, epoch in pairs:
        if not part or not epoch.isdigit():
            raise click.BadParameter("expected PART=EPOCH, such as layer4=3")
    return {part: int(epoch) for part, _equals, epoch in pairs}


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Name of a model, such as resnet18 or timm/vit_tiny_patch16_224.")
@click.option("--weights", default="default", show_default=True, help="A tag, the path of a file, or 'none'.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to save to.")
@click.option("--epochs", type=click.IntRange(min=0), default=10, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images of a batch.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate of the backbone; 0 finds one.")
@click.option("--head-lr", type=float, help="Learning rate of the head; that of the backbone where it is left out.")
@click.option("--layer-decay", type=float, help="Factor on the rate for each stage away from the head, such as 0.7.")
@click.option(
    "--weight-decay", type=float, default=0.05, show_default=True, help="Of weights, not of biases and norms."
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="PART",
    help="What stays as it is: backbone, until=layer4, a stage, a pattern.",
)
@click.option(
    "--unfreeze-at", multiple=True, metavar="PART=EPOCH", callback=_epochs_of_parts, help="When it trains after all."
)
@click.option(
    "--adapter", type=click.Choice(["lora"]), help="Train low-rank adapters of a frozen backbone instead of it."
)
@click.option("--adapter-rank", type=click.IntRange(min=1), default=8, show_default=True, help="Their inner size.")
@click.option(
    "--cache-features",
    "head_epochs",
    type=click.IntRange(min=0),
    default=0,
    metavar="EPOCHS",
    help="First train the head alone, on features that are computed once.",
)
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard", "strong"]),
    default="standard",
    show_default=True,
    help="Preset of augmentation.",
)
@click.option("--mixup", type=click.FloatRange(min=0), default=0.0, help="Strength of MixUp.")
@click.option(
    "--label-smoothing", type=click.FloatRange(0, 1), default=0.0, help="Share of each target given to all classes."
)
@click.option("--balance", is_flag=True, help="Weigh classes by the inverse of how many images they have.")
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without a better score.")
@click.option(
    "--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay of an average of the weights, such as 0.999."
)
@click.option("--precision", default="32-true", show_default=True, help="32-true, bf16-mixed or 16-mixed.")
@click.option("--accumulate", type=click.IntRange(min=1), default=1, help="Batches whose gradients are added up.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that decode images."
)
@click.option(
    "--val",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share to validate with, where the data has no split.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything drawn at random.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run to the same folder.")
@click.option("--overwrite", is_flag=True, help="Replace a model saved there, or a run that was interrupted.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; train and write nothing.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def finetune(data: Path, model: str, out: Path, **options: Any) -> None:
    r"""Fine-tune MODEL on the images in DATA, and save it to a folder that zoo.load and zoo predict take.

    DATA is a folder with one folder of images for each class (or train and val folders of those), a CSV with the
    columns path and label, or a Hugging Face dataset on disk; for a detector annotations of COCO's format, a file or
    the folder that has it; for segmentation a folder with images and masks.

    \b
    zoo finetune flowers/ --model resnet18 --freeze backbone --out my-flowers
    zoo finetune flowers/ --model resnet18 --cache-features 20 --out my-flowers
    """
    from zoo_lightning.read import read_data

    dry, quiet = options.pop("dry_run"), options.pop("quiet")
    options["lr"] = options["lr"] or None
    options["weights"] = None if options["weights"].lower() == "none" else options["weights"]
    images = read_data(data, val=options["val"], seed=options["seed"])
    for note in images.notes:
        _say(f"note: {note}", err=True)
    _say(
        f"{len(images.train)} images to train on, {len(images.val)} to validate with, {len(images.class_names)} classes"
    )
    if dry:
        _explain(model, images, out, options=options)
        return
    from zoo_lightning.run import finetune as run

    try:
        with _without_advice():
            trainer = {"enable_progress_bar": not quiet}
            result = run(images, model=model, out=out, trainer=trainer, **options)
    except KeyboardInterrupt as end:
        _say(f"note: {end}", err=True)
        raise
    name, value = result.headline
    _say(f"{name.replace('_', ' ')} {value:.1%} on the validation images")
    _say(f"saved {result.folder}, report {result.report}")
    if images.multi_label:
        _say(f"an image has any number of labels, those of at least 0.5: zoo predict {result.folder} IMAGE")


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence Lightning's hints to authors of training scripts in the command; errors are still shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(lightning|torchmetrics)\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _explain(model: str, images: ImageData, out: Path, *, options: dict[str, Any]) -> None:
    """Print what ``zoo finetune`` would do, or why not: nothing is trained; a model on the hub is downloaded."""
    import zoo_core as zoo
    from zoo_lightning.run import check_run
    from zoo_lightning.tasks import is_save

    with _without_advice():
        check_run(images, model=model, out=out, **options)
    for name, count in images.counts().items():
        _say(f"  {name}: {count}")
    name = model if is_save(model) else zoo.info(model).id
    _say(f"{name}: a head of {len(images.class_names)} classes, a new one unless it has as many")
    frozen = ", ".join(options["freeze"]) or "nothing"
    _say(f"frozen: {frozen}; {options['head_epochs']} epochs of the head alone, then {options['epochs']} of the rest")
