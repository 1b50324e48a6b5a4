"""Pieces of HTML: tables, curves and images in a page that needs nothing else."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchvision.transforms import v2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SIDE = 96
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_WIDTH, _HEIGHT, _MARGIN = 420, 220, 34


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows of cells as a table on an HTML page, which the keyboard can scroll."""
    head = (
        f"<tr>{''.join(f'<th>{escape(cell)}</th>' if cell else '<td></td>' for cell in header)}</tr>" if header else ""
    )
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table tabindex="0">{head}{body}</table>'


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
    """Line of text in the SVG of an HTML page, with the color of each name after it."""
    named = "".join(f' <tspan fill="{color}">&#9679;</tspan> {escape(name)}' for name, color in (colors or {}).items())
    return f'<text x="{x}" y="{y}" fill="currentColor" font-size="12">{escape(text)}{named}</text>'


def figure(image: Any, caption: str) -> str:
    """A small image on an HTML page, with a line of text below it."""
    escaped = escape(caption)
    source = f"data:image/png;base64,{_thumbnail(image)}"
    return f'<figure><img alt="{escaped}" src="{source}"><figcaption>{escaped}</figcaption></figure>'


def _thumbnail(read: Any) -> str:
    """A small image as base64, so that the page needs no file beside it."""
    image = v2.functional.to_pil_image(read) if isinstance(read, Tensor) else read.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
