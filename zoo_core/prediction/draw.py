"""Results drawn on their images with Pillow."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_core.prediction.results import Detections, Segmentation

_GOLDEN = 0.618033988749895
_OPACITY = 0.5
_VISIBLE = 0.5
_ROW = 16
_GREY, _PIL_CHANNELS = 1, (1, 3, 4)


def colour_of(label: int) -> tuple[int, int, int]:
    """A colour for a class, the same every time and far from that of its neighbours; black is the background.

    Example:
        >>> colour_of(0)
        (0, 0, 0)
    """
    if label == 0:
        return 0, 0, 0
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def to_pil(image: Any) -> Image.Image:  # noqa: ANN401 - a PIL image or a tensor
    """An RGB image to draw on."""
    if isinstance(image, torch.Tensor):
        values = image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
        values = values[:3] if values.shape[0] in _PIL_CHANNELS and values.shape[0] > _GREY else values[:1]
        image = Image.fromarray(values.permute(1, 2, 0).squeeze(2).numpy())
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    plain: Image.Image = image.convert("RGB")
    return plain


def draw_detections(found: Detections, image: Any) -> Image.Image:  # noqa: ANN401 - as above
    """The image with boxes, names, masks and keypoints drawn on it."""
    drawn = to_pil(image)
    if found.masks is not None:
        for mask, label in zip(found.masks, found.labels.tolist(), strict=True):
            drawn.paste(colour_of(label), mask=_as_pil((mask > 0.5) * _OPACITY))  # noqa: PLR2004 - more likely than not
    pen = ImageDraw.Draw(drawn)
    for each, label in reversed([*zip(found, found.labels.tolist(), strict=True)]):  # the surest on top
        colour = colour_of(label)
        pen.rectangle(each.box, outline=colour, width=2)
        text = f"{each.name} {each.score:.2f}"
        place = each.box[0], max(each.box[1] - _ROW, 0)
        pen.rectangle(pen.textbbox(place, text), fill=colour)
        pen.text(place, text, fill="black")
        if each.keypoints is not None:
            for x, y, visible in each.keypoints.tolist():
                if visible >= _VISIBLE:
                    pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour, outline="black")
    return drawn


def draw_segmentation(found: Segmentation, image: Any = None) -> Image.Image:  # noqa: ANN401 - as above
    """The mask in colours, over the image where there is one, and below it names and colours of its classes."""
    labels = found.mask.to(torch.int64)
    palette = torch.tensor([colour_of(i) for i in range(len(found.names))], dtype=torch.uint8, device="cpu")
    coloured = Image.fromarray(palette[labels].numpy())
    if image is not None:
        below = to_pil(image)
        mixed = Image.blend(below, coloured.resize(below.size, Image.Resampling.NEAREST), _OPACITY)
        below.paste(mixed, mask=_as_pil(labels > 0).resize(below.size, Image.Resampling.NEAREST))
        coloured = below
    legend = found.legend
    canvas = Image.new("RGB", (coloured.width, coloured.height + _ROW * len(legend)), "white")
    canvas.paste(coloured)
    pen = ImageDraw.Draw(canvas)
    for i, (name, share, colour) in enumerate(legend):
        top = coloured.height + _ROW * i
        pen.rectangle((2, top + 2, _ROW - 3, top + _ROW - 3), fill=colour, outline="black")
        pen.text((_ROW + 2, top + 1), f"{name} {share:.1%}", fill="black")
    return canvas


def _as_pil(mask: Tensor) -> Image.Image:
    return Image.fromarray((mask.float() * 255).round().to(torch.uint8).cpu().numpy())
