"""Tracing measured against what plugins declare: ``python -m zoo_core.testing.traced NAME... > TRACED.md``.

Each model is built without values, its anatomy is hidden, and what tracing finds is compared with it. NAME is a glob
over ``family/name``; none means every model. ``ZOO_SHARD=1/4`` takes the first quarter, and ``--values 10`` builds
models of up to 10 million parameters with values, so that their split is compared bit for bit. ``--rows FILE`` keeps a
JSON line a model, and leaves out those that are there.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

from zoo_core.build.get import get
from zoo_core.contract.anatomy import Anatomy
from zoo_core.contract.card import Card
from zoo_core.errors import ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.choosing import shard
from zoo_core.testing.under_test import DETECTORS
from zoo_core.tracing.trace import trace

MILLION = 1_000_000


@dataclass(frozen=True)
class TracedModel:
    """A model traced: what tracing found, compared with what its plugin declares.

    Attributes:
        model: ``family/name``.
        heads: ``"right"``, ``"refused"``, ``"wrong"`` or ``"error"``.
        stem: Whether it is the declared one.
        stages: Whether channels and strides are the declared ones.
        split: ``"claimed"``, or why it is not.
        seconds: How long tracing took.
        note: What differs.
    """

    model: str
    heads: str
    stem: bool
    stages: bool
    split: str
    seconds: float
    note: str = ""


def compared(card: Card, *, values: bool = False) -> TracedModel:
    """One model traced, and compared with what its plugin declares."""
    started = time.perf_counter()
    try:
        model = get(card.id, weights=None, device=None if values else "meta", seed=0)
        declared = anatomy_of(model)
        started = time.perf_counter()
        result = trace(model, _example_to_trace(card)).anatomy
    except (ZooError, RuntimeError) as error:
        note = str(error).strip().replace("\n", " ")[:200]
        return TracedModel(card.id, "error", stem=False, stages=False, split="", seconds=0.0, note=note)
    heads = _compare_heads(declared, result)
    stem = {*declared.stem} == {*result.stem}
    stages = _steps(declared) == _steps(result)
    notes = [] if heads == "right" else [result.headless or f"{_paths(result)} instead of {_paths(declared)}"]
    notes += [] if stem else [f"stem {result.stem} instead of {declared.stem}"]
    notes += [] if stages else [f"stages {_steps(result)} instead of {_steps(declared)}"]
    split = result.indivisible or ("claimed" if result.heads else "no head")
    return TracedModel(card.id, heads, stem, stages, split, round(time.perf_counter() - started, 2), "; ".join(notes))


def _example_to_trace(card: Card) -> Any:
    """An example input to trace a model with, to compare it with a plugin's anatomy: zeros in the size of its card."""
    image = torch.zeros(1, *card.input_size, device="cpu")
    if card.task in DETECTORS:
        return [image[0]]
    return (image, image.clone()) if card.task == "optical_flow" else image


def _compare_heads(declared: Anatomy, found: Anatomy) -> str:
    """How traced heads compare with the declared ones: right, refused or wrong."""
    if not found.heads:
        return "refused" if declared.heads else "right"
    right = _sites(declared) == _sites(found) and declared.main and found.main
    return "right" if right and declared.main and found.main and declared.main.path == found.main.path else "wrong"


def _sites(anatomy: Anatomy) -> set[tuple[str, int, int]]:
    """Path and widths of each head site, to compare traced with declared ones."""
    return {(head.path, head.in_features, head.num_classes) for head in anatomy.heads}


def _paths(anatomy: Anatomy) -> list[str]:
    """The paths of the head sites, to compare traced with declared ones."""
    return [head.path for head in anatomy.heads]


def _steps(anatomy: Anatomy) -> list[tuple[int, int]]:
    """Channels and stride of each stage, to compare traced with declared ones."""
    return [(stage.channels, stage.stride) for stage in anatomy.stages]


def _page(rows: Sequence[TracedModel]) -> str:
    """The rows on traced models as Markdown: shares by family, and each model that differs."""
    lines = ["# Tracing measured against what plugins declare", "", " ".join(_INTRODUCTION.split()), ""]
    lines += [f"{len(rows)} models were measured, the smallest of each share first.", ""]
    lines += ["| family | models | heads right | refused | wrong | error | stem | stages | split claimed |"]
    lines += ["|---" * 9 + "|"]
    families = dict.fromkeys(row.model.partition("/")[0] for row in rows)
    for family in (*families, "all"):
        lines.append(_shares(family, [row for row in rows if family in ("all", row.model.partition("/")[0])]))
    for title, differs in (("Heads", lambda row: row.heads != "right"), ("Stems", lambda row: not row.stem)):
        lines += ["", f"## {title} that differ", "", "| model | what | why |", "|---|---|---|"]
        lines += [f"| {row.model} | {row.heads} | {_cell(row.note)} |" for row in rows if differs(row)]
    lines += ["", "## Stages that differ", "", "| model | found instead of declared |", "|---|---|"]
    notes = {row.model: row.note.rpartition("stages ")[2] for row in rows if row.heads != "error" and not row.stages}
    lines += [f"| {model} | {_cell(note)} |" for model, note in notes.items()]
    return "\n".join(lines) + "\n"


_INTRODUCTION = """
Every model below was built without values, its anatomy was hidden, and `zoo.trace` looked for it. Heads are right where
all sites, their widths and the main one are those declared, refused where none was proven. Stages are right where
channels and strides are the declared ones. `python -m zoo_core.testing.traced` writes this page.
"""


def _shares(family: str, rows: Sequence[TracedModel]) -> str:
    """The line of a family in the table that compares: how many models are traced as the plugin declares them."""
    count = Counter(row.heads for row in rows)

    def share(number: int) -> str:
        return f"{number} ({100 * number / len(rows):.1f} %)"

    cells = [share(count[each]) for each in ("right", "refused", "wrong", "error")]
    cells += [share(sum(row.stem for row in rows)), share(sum(row.stages for row in rows))]
    cells += [share(sum(row.split == "claimed" for row in rows))]
    return f"| {family} | {len(rows)} | {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A text in a cell of the table of traced models."""
    return text.replace("|", "/").replace("\n", " ")[:160]


def _traced_models(cards: Iterable[Card], values: float, rows: Path | None) -> list[TracedModel]:
    """A row of the comparison for each model traced, smallest first; those in the file of rows are taken from there."""
    kept = [TracedModel(**json.loads(line)) for line in rows.read_text().splitlines()] if rows and rows.exists() else []
    done = {row.model for row in kept}
    for card in sorted(cards, key=lambda card: card.parameters or 0):
        if card.id in done:
            continue
        small = (card.parameters or 0) <= values * MILLION or card.task in DETECTORS  # which choose boxes by values
        with warnings.catch_warnings(action="ignore"):
            row = compared(card, values=small)
        kept.append(row)
        if rows:
            with rows.open("a") as opened:
                opened.write(json.dumps(asdict(row)) + "\n")
    return kept


@click.command()
@click.argument("names", nargs=-1)
@click.option("--values", default=0.0, help="Millions of parameters up to which models are built with values.")
@click.option("--rows", type=click.Path(path_type=Path), help="A file that keeps a JSON line a model.")
def main(names: tuple[str, ...], values: float, rows: Path | None) -> None:
    """Measure tracing on the models that NAMES match, and print how that compares with what plugins declare."""
    result = dict.fromkeys(model for name in names or ("*/*",) for model in current_zoo().list(name))
    cards = shard([current_zoo().resolve(model)[0] for model in result])
    sys.stdout.write(_page(_traced_models(cards, values, rows)))


if __name__ == "__main__":
    main()
