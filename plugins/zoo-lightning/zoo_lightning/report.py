"""One HTML file about a run: curves, results on the validation images, what trained and what was frozen."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torchvision.transforms import v2

from zoo_lightning.module import METRIC

if TYPE_CHECKING:
    from zoo_lightning.data import ImageData

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
_SIDE = 96
WORST = 8
"""How many images are shown of those that the model is worst at."""
_WIDEST, _PAIRS = 30, 50
"""Classes of the largest matrix of confusions that can be read, and the pairs shown of more."""
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_WIDTH, _HEIGHT, _MARGIN = 420, 220, 34


class Evaluation(Protocol):
    """What a report shows of a trained model: how it does on the validation images, as its task is evaluated."""

    @property
    def metrics(self) -> dict[str, float]:
        """Its metrics by name."""

    @property
    def headline(self) -> tuple[str, float]:
        """The metric that says most, and its value."""

    def sections(self, data: ImageData) -> Iterator[str]:
        """The parts of the page about it, as HTML."""


def write_report(
    *,
    title: str,
    data: ImageData,
    model: nn.Module,
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation,
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


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows of cells as a table in the report of a run, which the keyboard can scroll."""
    head = (
        f"<tr>{''.join(f'<th>{escape(cell)}</th>' if cell else '<td></td>' for cell in header)}</tr>" if header else ""
    )
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table tabindex="0">{head}{body}</table>'


def confusion_table(counts: Tensor, names: Sequence[str]) -> str:
    """Table of how often a class was taken for another; of many classes only the pairs that were, most often first."""
    if len(names) <= _WIDEST:
        rows = [[name, *map(str, row)] for name, row in zip(names, counts.tolist(), strict=True)]
        return table(rows, ["true \\ predicted", *names])
    wrong = counts.clone().fill_diagonal_(0).flatten()
    order = [place for place in wrong.argsort(descending=True, stable=True)[:_PAIRS].tolist() if wrong[place]]
    pairs = [(names[place // len(names)], names[place % len(names)], str(wrong[place].item())) for place in order]
    return table(pairs, ("true", "predicted", "images")) if pairs else "<p>None was taken for another.</p>"


def curves(history: Sequence[Mapping[str, float]], names: Sequence[str], label: str) -> str:
    """Lines over the epochs as inline SVG on an HTML page."""
    every = {name: [row[name] for row in history if name in row] for name in names}
    lines = {name: line for name, line in every.items() if line}
    values = [value for line in lines.values() for value in line]
    if not values:
        return "<p>No epoch was completed.</p>"
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    drawn = []
    colors = dict(zip(lines, cycle(_COLORS), strict=False))
    for name, line in lines.items():
        color = colors[name]
        step = (_WIDTH - 2 * _MARGIN) / max(1, len(line) - 1)
        points = [
            (_MARGIN + place * step, _HEIGHT - _MARGIN - (value - low) / span * (_HEIGHT - 2 * _MARGIN))
            for place, value in enumerate(line)
        ]
        path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in points)
        drawn.append(f'<path d="{path}" stroke="{color}"><title>{escape(name)}</title></path>{dots}')
    marks = [
        _legend(2, _MARGIN - 8, f"{high:.3g}"),
        _legend(2, _HEIGHT - _MARGIN + 14, f"{low:.3g}"),
        _legend(_MARGIN + 20, _HEIGHT - 6, label, colors),
    ]
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
    return f'<svg class="lines" role="img" aria-label="{escape(label)}" {size}>{"".join([*drawn, *marks])}</svg>'


def _legend(x: int, y: int, text: str, colors: Mapping[str, str] | None = None) -> str:
    """Line of text on a chart of the report, in its SVG, with the color of each name after it."""
    named = "".join(f' <tspan fill="{color}">&#9679;</tspan> {escape(name)}' for name, color in (colors or {}).items())
    return f'<text x="{x}" y="{y}" fill="currentColor" font-size="12">{escape(text)}{named}</text>'


def figure(image: Any, caption: str) -> str:
    """A small image on the page of a report, with a line of text below it."""
    escaped = escape(caption)
    source = f"data:image/png;base64,{_thumbnail(image)}"
    return f'<figure><img alt="{escaped}" src="{source}"><figcaption>{escaped}</figcaption></figure>'


def _thumbnail(read: Any) -> str:
    """A small image in the report of a run, as base64, so that the page needs no file beside it."""
    image = v2.functional.to_pil_image(read) if isinstance(read, Tensor) else read.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
