"""``zoo inspect``: what a checkpoint is, and which models it is of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zoo_core.cli.console import echo, paragraph

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
    lines = [_loading_line(each, file, raw=averaged and not each.averaged) for each in result]
    if as_json:
        records = [{**asdict(each), "load": line} for each, line in zip(result, lines, strict=True)]
        echo(json.dumps({"path": str(checkpoint.path), "state_dicts": records}, indent=2))
        return
    echo(f"{file}: {len(result)} state dict{'s' if len(result) > 1 else ''}")
    for each, line in zip(result, lines, strict=True):
        _print(each, line)


def _loading_line(found: StateDict, file: str, *, raw: bool = False) -> str | None:
    """The line that loads an inspected state dict as the model that it looks like most; None without one.

    Args:
        found: The state dict.
        file: Where it is.
        raw: Whether there are averaged weights beside it, which would be taken first.
    """
    if not found.matches:
        return None
    return f"zoo.get({found.matches[0].name!r}, weights={file!r}{', ema=False' if raw else ''})"


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
