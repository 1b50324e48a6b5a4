"""One HTML file about a run: curves, confusions, calibration, the worst mistakes, what trained and what was frozen."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.transforms import v2

from zoo_lightning.module import METRIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from zoo_lightning.data import ImageData, Sample
    from zoo_lightning.evaluate import Evaluation

_MISTAKES, _SIDE = 12, 96
_WIDTH, _HEIGHT, _MARGIN = 420, 220, 34
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{style}</style></head>
<body>
{body}
</body>
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
    evaluation: Evaluation,
    settings: Mapping[str, object],
) -> str:
    """The page, self-contained.

    Args:
        title: Of the page.
        data: What was trained on.
        model: As it is after training.
        history: The metrics of each epoch.
        evaluation: The model on the validation images.
        settings: What the run was started with.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(data, evaluation),
        *(f"<p>{escape(note)}.</p>" for note in data.notes),
        "<h2>Curves</h2>",
        _curves(history, ("train_loss", "val_loss"), "loss"),
        _curves(history, (METRIC,), "score on the validation images"),
    ]
    if not evaluation.multi_label:
        parts += [
            "<h2>Confusion</h2>",
            _confusion(data.class_names, evaluation),
            "<h2>Calibration</h2>",
            _calibration(evaluation),
        ]
    parts += [
        "<h2>Worst mistakes</h2>",
        *_mistakes(data, evaluation),
        "<h2>What trained</h2>",
        _trained(model),
        "<h2>Settings</h2>",
        _table([(name, str(value)) for name, value in settings.items()]),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))


def _summary(data: ImageData, evaluation: Evaluation) -> str:
    return (
        f"<p>{len(data.train)} images trained, {len(data.val)} validated, {len(data.class_names)} classes; accuracy "
        f"<strong>{evaluation.accuracy:.1%}</strong>.</p>"
    )


def _table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    head = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>" if header else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _curves(history: Sequence[Mapping[str, float]], names: Sequence[str], label: str) -> str:
    """Lines over the epochs as inline SVG."""
    lines = {name: [row[name] for row in history if name in row] for name in names}
    values = [value for line in lines.values() for value in line]
    if not values:
        return "<p>No epoch was completed.</p>"
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    drawn = []
    for (name, line), color in zip(lines.items(), ("#1f77b4", "#d62728"), strict=False):
        step = (_WIDTH - 2 * _MARGIN) / max(1, len(line) - 1)
        points = [
            (_MARGIN + place * step, _HEIGHT - _MARGIN - (value - low) / span * (_HEIGHT - 2 * _MARGIN))
            for place, value in enumerate(line)
        ]
        path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in points)
        drawn.append(f'<path d="{path}" stroke="{color}"><title>{escape(name)}</title></path>{dots}')
    marks = [
        _text(2, _MARGIN, f"{high:.3g}"),
        _text(2, _HEIGHT - _MARGIN, f"{low:.3g}"),
        _text(_MARGIN, _HEIGHT - 6, f"{label}: {', '.join(names)}"),
    ]
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
    return f'<svg class="lines" role="img" aria-label="{escape(label)}" {size}>{"".join([*drawn, *marks])}</svg>'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" fill="currentColor" font-size="12">{escape(text)}</text>'


def _confusion(class_names: Sequence[str], evaluation: Evaluation) -> str:
    counts = evaluation.confusion().tolist()
    rows = [[name, *(str(count) for count in row)] for name, row in zip(class_names, counts, strict=True)]
    return _table(rows, ["true \\ predicted", *class_names])


def _calibration(evaluation: Evaluation) -> str:
    rows = [(f"{sure:.2f}", f"{right:.2f}", str(count)) for sure, right, count in evaluation.calibration()]
    error = f"<p>Expected calibration error {evaluation.expected_calibration_error():.3f}.</p>"
    return error + _table(rows, ("confidence", "accuracy", "images"))


def _mistakes(data: ImageData, evaluation: Evaluation) -> Iterator[str]:
    worst = evaluation.mistakes(_MISTAKES)
    if not worst:
        yield "<p>None.</p>"
    for index in worst:
        sample = data.val[index]
        truth = ", ".join(data.class_names[label] for label in sample.labels)
        guess = data.class_names[int(evaluation.probabilities[index].argmax())]
        sure = float(evaluation.probabilities[index].max())
        caption = f"{escape(sample.name)}: {escape(truth)}, taken for {escape(guess)} ({sure:.0%})"
        image = f'<img alt="{caption}" src="data:image/png;base64,{_thumbnail(sample)}">'
        yield f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(sample: Sample) -> str:
    read = sample.image()
    image = v2.functional.to_pil_image(read) if isinstance(read, Tensor) else read.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _trained(model: nn.Module) -> str:
    rows = []
    for name, child in model.named_children():
        total = sum(parameter.numel() for parameter in child.parameters())
        trainable = sum(parameter.numel() for parameter in child.parameters() if parameter.requires_grad)
        if total:
            state = "trained" if trainable == total else "frozen" if not trainable else f"{trainable:,} of them trained"
            rows.append((name, f"{total:,}", state))
    return _table(rows, ("part", "parameters", ""))
