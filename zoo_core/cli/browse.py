"""``zoo browse``: the installed catalogue as one HTML page, which needs no network and no torch."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import echo
from zoo_core.errors import ZooError
from zoo_core.registry.choose import ACCURACY
from zoo_core.registry.zoo import current_zoo

if TYPE_CHECKING:
    from zoo_core.contract.card import Card, Preprocessing

_PLACE = "/*CATALOGUE*/[]"


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The HTML file to write.")
def browse(out: Path) -> None:
    """Write the catalogue as one page: search, filter, sort, and copy the line that gets a model."""
    records = [_record(current_zoo().resolve(name)[0]) for name in current_zoo().list()]
    try:
        out.write_text(page(records), encoding="utf-8")
    except OSError as error:
        raise ZooError(f"cannot write {out}", cause=str(error), hint="name a file in a folder that exists") from error
    echo(f"{out}: {len(records)} models")


def page(records: list[dict[str, Any]]) -> str:
    """The page over these records; a ``</script>`` in one of them ends nothing."""
    data = json.dumps(records, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    template = files("zoo_core.cli").joinpath("browse.html").read_text(encoding="utf-8")
    return template.replace(_PLACE, data.replace("<!--", "<\\!--"))


def _record(card: Card) -> dict[str, Any]:
    result = {
        "f": card.family,
        "n": card.name,
        "t": card.task,
        "p": card.parameters,
        "i": "x".join(map(str, card.input_size)),
        "d": card.default,
        "w": [
            {
                "t": weights.tag,
                "c": weights.num_classes,
                "l": weights.licenses.weights,
                "a": weights.metrics.get(ACCURACY),
                "m": "; ".join(f"{name} {value:g}" for name, value in weights.metrics.items()),
                "s": weights.size,
                "x": _words(weights.preprocessing),
                "u": weights.docs,
            }
            for weights in card.weights
        ],
    }
    return {name: value for name, value in result.items() if value is not None}


def _words(preprocessing: Preprocessing) -> str:
    resize, crop = ("x".join(map(str, sides or ())) or "none" for sides in (preprocessing.resize, preprocessing.crop))
    colours = f"{preprocessing.channel_order} to {preprocessing.value_range:g}"
    mean, std = (", ".join(f"{n:.4g}" for n in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    return f"resize {resize}, {preprocessing.interpolation}; crop {crop}; {colours}; mean {mean}; std {std}"
