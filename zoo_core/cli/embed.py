"""``zoo embed`` and ``zoo probe``: vectors of images in a file, and what can be told from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import echo, note
from zoo_core.cli.options import complete_model, device_of

if TYPE_CHECKING:
    from zoo_core.embedding.embed import Embeddings


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.argument("images", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, NAME.parquet.")
@click.option("--weights", default="default", show_default=True, help="A tag, or a file such as last.ckpt.")
@click.option("--size", type=int, help="Height and width that the model sees.")
@click.option("--batch-size", default=32, show_default=True, help="Images in one pass.")
@click.option("--workers", type=click.IntRange(min=0), help="Threads that read images; one a core unless given.")
@click.option("--device", help="Where the model runs, such as cuda.")
@click.option("--engine", default="local", show_default=True, help="Where the model runs: here, or on a ray cluster.")
@click.option("--nearest", metavar="IMAGE", help="Then print the images most like this one.")
@click.option("--duplicates", type=float, metavar="SIMILARITY", help="Then print pairs at least this similar.")
@click.option("--outliers", type=int, metavar="COUNT", help="Then print the images least like all others.")
def embed(
    model: str,
    images: tuple[str, ...],
    out: Path,
    nearest: str | None,
    duplicates: float | None,
    outliers: int | None,
    **options: Any,
) -> None:
    r"""Write a vector for each of IMAGES to a Parquet file: path, label, size, vector.

    IMAGES is a folder, a glob, files, or shards as WebDataset writes them, such as "shards-{000..010}.tar".

    A run that was killed goes on where it was. The folder of an image inside IMAGES is its label.

    \b
    zoo embed resnet50 photos/ --out features.parquet
    zoo embed resnet50 photos/ --out features.parquet --nearest cat.jpg
    zoo probe features.parquet
    """
    from zoo_core.embedding.embed import embed as run

    if options["weights"] == "none":
        raise click.BadParameter("an untrained model sees nothing", param_hint="--weights")
    options["device"], options["num_workers"] = device_of(options["device"]), options.pop("workers")
    result = run(model, images[0] if len(images) == 1 else images, out=out, **options)
    for reason in result.failed.values():
        echo(f"zoo: {'; '.join(line.strip() for line in reason.splitlines())}", err=True)
    echo(f"{out}: {result.vectors.shape[0]} vectors of {result.vectors.shape[1]}, {len(result.failed)} failed")
    _print_similar(result, nearest, duplicates, outliers)
    if result.failed:
        raise SystemExit(1)


def _print_similar(result: Embeddings, nearest: str | None, duplicates: float | None, outliers: int | None) -> None:
    """Print a line for each image or pair that is found by its embeddings, with its similarity first."""
    if nearest is not None:
        for name, similarity in result.nearest(nearest):
            echo(f"{similarity:.4f}  {name}")
    if duplicates is not None:
        pairs = result.duplicates(duplicates)
        if not pairs:
            note(f"note: no two images are as similar as {duplicates:g}")
        for first, second, similarity in pairs:
            echo(f"{similarity:.4f}  {first}  {second}")
    if outliers is not None:
        for name, similarity in result.outliers(outliers):
            echo(f"{similarity:.4f}  {name}")


@click.command()
@click.argument("features", type=click.Path(path_type=Path))
@click.option("-k", "k", default=5, show_default=True, help="Neighbours that vote.")
@click.option("--seed", default=0, show_default=True, help="Which images are held out.")
def probe(features: Path, k: int, seed: int) -> None:
    r"""Say how well the labels in FEATURES, which zoo embed wrote, can be told from the vectors.

    \b
    zoo probe features.parquet
    """
    from zoo_core.embedding.probe import probe as run

    echo(str(run(features, k=k, seed=seed)))
