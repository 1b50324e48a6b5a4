"""``zoo export``: a model for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo_core.cli.console import echo
from zoo_core.cli.options import complete_model

_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2", "torchscript": ".ts"}


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--to", type=click.Choice([*_SUFFIXES]), help="The format; what OUT ends in says it else, or ONNX.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; the model's name here unless given.")
@click.option("--weights", default="default", show_default=True, help="A tag, a file such as last.ckpt, or none.")
@click.option("--size", type=int, help="Height and width of the images.")
@click.option("--frames", type=int, help="Of a clip, for a model of videos.")
@click.option("--softmax", is_flag=True, help="End the graph in probabilities; of several labels by a sigmoid.")
@click.option("--with-preprocessing", is_flag=True, help="Take bytes, uint8 [N, H, W, C], and normalize in the graph.")
@click.option(
    "--int8", type=click.Path(path_type=Path), metavar="FOLDER", help="Quantize (ONNX, pt2), by images of FOLDER."
)
@click.option("--static", is_flag=True, help="A batch of two, where the model takes no batch of any length.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there, if all goes well.")
def export(model: str, out: Path | None, *, weights: str, to: str | None, static: bool, **options: Any) -> None:
    r"""Write MODEL, a name or a saved folder, for another runtime, with class names and preprocessing in its metadata.

    The outputs of the file are compared with the model's before it is there.

    \b
    zoo export resnet18 --to onnx
    zoo export flowers/ --to pt2 --out flowers.pt2 --softmax
    """
    from zoo_core.exporting.export import export as run

    target = out or Path(Path(model.rstrip("/")).name.replace("@", "-") + _SUFFIXES[to or "onnx"])
    chosen = None if weights == "none" else weights
    result = run(model, target, to=to, weights=chosen, dynamic=not static, **options)
    echo(
        f"{result.path}: outputs {', '.join(result.outputs)}; largest difference {result.difference:.3g}, "
        f"where the largest output is {result.largest:.3g}"
    )
    if result.int8:
        echo(str(result.int8))
