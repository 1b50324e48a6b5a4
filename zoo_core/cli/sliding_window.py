"""``zoo sliding-window``: a map of scores of a large image, as a file."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.cli.console import complete_model, echo


@click.command("sliding-window")
@click.argument("model", shell_complete=complete_model)
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .npy file to write.")
@click.option("--size", type=int, help="Height and width of a window; those of the weights unless given.")
@click.option("--stride", type=int, help="From one window to the next; the size unless given.")
@click.option("--blend", type=click.Choice(["constant", "gaussian"]), default="constant", show_default=True)
@click.option("--outputs", type=click.Choice(["scores", "embeddings"]), default="scores", show_default=True)
@click.option("--batch-size", default=16, show_default=True, help="Windows in one pass.")
def sliding_window(
    model: str, image: Path, out: Path, size: int | None, stride: int | None, blend: str, outputs: str, batch_size: int
) -> None:
    r"""Run MODEL over a large IMAGE window by window, and write [1, classes, rows, columns] to a file.

    A TIFF is read window by window, with zoo-core[tiff].

    \b
    zoo sliding-window resnet50 slide.tif --size 224 --stride 112 --out scores.npy
    zoo sliding-window fcn_resnet50 street.jpg --size 520 --stride 260 --blend gaussian --out logits.npy
    """
    from zoo_core.prediction.sliding_window import sliding_window as run

    result = run(
        model,
        image,
        size=size,
        stride=stride,
        blend=blend,  # type: ignore[arg-type]  # one of the choices
        outputs=outputs,  # type: ignore[arg-type]
        batch_size=batch_size,
        out=out,
    )
    echo(f"{out}: {' x '.join(str(side) for side in result.scores.shape)}")
