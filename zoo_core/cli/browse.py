"""``zoo browse``: the installed catalogue as one HTML page, which needs no network and no torch."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import echo
from zoo_core.cli.options import OutFile
from zoo_core.registry.choose import ACCURACY
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import in_three_digits
from zoo_core.utils.atomic_write import whole_file

if TYPE_CHECKING:
    from zoo_core.contract.card import Card, Preprocessing, Weights
    from zoo_core.registry.families import Member

_PLACE = "/*CATALOGUE*/[]"


@click.command()
@click.option("--out", type=OutFile(".html", ".htm"), required=True, help="The HTML file to write.")
def browse(out: Path) -> None:
    """Write the catalogue as one page: search, filter, sort, and copy the line that gets a model."""
    members = [member for member in current_zoo().usable(listed=True) if not member.problem]
    records = [_model_record(card, member) for member in members for card in member.cards.values()]
    with whole_file(out) as new:
        new.write_text(page(records), encoding="utf-8", errors="backslashreplace")
    echo(f"{out}: {len(records)} model{'' if len(records) == 1 else 's'}")


def page(records: list[dict[str, Any]]) -> str:
    """The HTML page to browse these records; a ``</script>`` in one of them ends nothing."""
    data = json.dumps(records, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    template = files("zoo_core.cli").joinpath("browse.html").read_text(encoding="utf-8")
    return template.replace(_PLACE, data.replace("<!--", "<\\!--"))


def _model_record(card: Card, member: Member) -> dict[str, Any]:
    """A model of the catalogue as a record in the page of ``zoo browse``, under keys of one letter."""
    cost, parts = member.costs.get(card.name), member.parts.get(card.name)
    heads, stages = parts.words if parts else (None, None)
    return _known(
        f=card.family,
        n=card.name,
        t=card.task,
        p=card.parameters,
        i="x".join(map(str, card.input_size)),
        g=float(in_three_digits(cost.multiply_adds / 1e9)) if cost else None,
        k=float(in_three_digits(cost.activations / 1e6)) if cost else None,
        h=heads,
        s=stages,
        d=card.default,
        w=[_weights_record(weights, card.input_size[-1]) for weights in card.weights],
    )


def _weights_record(weights: Weights, width: int) -> dict[str, Any]:
    """The weights of a model as a record in the page of ``zoo browse``, under keys of one letter."""
    crop = weights.preprocessing.crop
    return _known(
        t=weights.tag,
        c=weights.num_classes,
        l=weights.licenses.weights,
        a=weights.metrics.get(ACCURACY),
        m="; ".join(f"{name} {value:g}" for name, value in weights.metrics.items()) or None,
        s=weights.size,
        z=True if crop and crop[-1] != width else None,  # so that the model's cost is not that with these weights
        x=_preprocessing_line(weights.preprocessing),
        u=weights.docs,
    )


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _preprocessing_line(preprocessing: Preprocessing) -> str:
    """A card's preprocessing in a line of the page that ``zoo browse`` writes."""
    resize, crop = ("x".join(map(str, sides or ())) or "none" for sides in (preprocessing.resize, preprocessing.crop))
    colours = f"{preprocessing.channel_order} to {preprocessing.value_range:g}"
    mean, std = (", ".join(f"{n:.4g}" for n in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    return f"resize {resize}, {preprocessing.interpolation}; crop {crop}; {colours}; mean {mean}; std {std}"
