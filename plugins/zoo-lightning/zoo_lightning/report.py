"""One HTML file about a run: curves, results on the validation images, what trained and what was frozen."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from zoo_lightning.module import METRIC
from zoo_lightning.page import curves, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from zoo_lightning.samples import ImageData
    from zoo_lightning.tasks import AnyEvaluation

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>{title}</title>
<style>{style}</style></head>
<body><main>
{body}
</main></body>
</html>
"""
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .2rem .6rem; text-align: right; }
th { font-weight: 600; } svg { max-width: 100%; height: auto; } figure { display: inline-block; margin: .5rem; }
figcaption { font-size: .85rem; max-width: 8rem; } .lines path { fill: none; stroke-width: 2; }
"""


def write_report(
    *,
    title: str,
    data: ImageData,
    model: nn.Module,
    history: Sequence[Mapping[str, float]],
    evaluation: AnyEvaluation,
    settings: Mapping[str, object],
) -> str:
    """The report on a run: one self-contained HTML page.

    Args:
        title: Of the page.
        data: What was trained on.
        model: As it is after training.
        history: The metrics of each epoch.
        evaluation: The model on the validation images.
        settings: What the run was started with.
    """
    name, value = evaluation.headline
    counts = f"{len(data.train)} images trained, {len(data.val)} validated, {len(data.class_names)} classes"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{counts}; {name.replace('_', ' ')} <strong>{value:.1%}</strong>.</p>",
        *(f"<p>{escape(note)}.</p>" for note in data.notes),
        "<h2>Curves</h2>",
        curves(history, ("train_loss", "val_loss"), "loss"),
        curves(history, (METRIC,), "score on the validation images"),
        *evaluation.sections(data),
        "<h2>What trained</h2>",
        _table_of_parts(model),
        "<h2>Settings</h2>",
        table([(name, str(value)) for name, value in settings.items()]),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))


def _table_of_parts(model: nn.Module) -> str:
    """Table of a run's report on which parts of the model trained, and which were frozen."""
    rows = []
    for name, child in model.named_children():
        total = sum(parameter.numel() for parameter in child.parameters())
        trainable = sum(parameter.numel() for parameter in child.parameters() if parameter.requires_grad)
        if total:
            state = "trained" if trainable == total else "frozen" if not trainable else f"{trainable:,} of them trained"
            rows.append((name, f"{total:,}", state))
    return table(rows, ("part", "parameters", ""))
