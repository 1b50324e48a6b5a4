"""Turn clean drawings into images as a hand and a coarse scanner would leave them, a whole batch at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Generator, Tensor

SIZE = 32
"""Height and width of the network's images, in pixels."""

_COARSE = (8, 8, 12, 16, 32)  # 8 twice: images that small are the hard ones


def clean(images: Tensor) -> Tensor:
    """Turn drawings ``[N, S, S]`` of 0 to 255 into images ``[N, 1, 32, 32]`` of 0 to 1 without distorting them.

    Example:
        >>> clean(torch.full((2, 48, 48), 255, dtype=torch.uint8)).amax()
        tensor(1.)
    """
    return F.interpolate(images[:, None].float() / 255, size=(SIZE, SIZE), mode="area")


def distorted(images: Tensor, generator: Generator) -> Tensor:
    """Drawings distorted: with another slant, stroke width, shape, sharpness and contrast each.

    Args:
        images: ``[N, S, S]``, 0 for paper to 255 for ink.
        generator: Where the randomness comes from.

    Returns:
        ``[N, 1, 32, 32]``, 0 for paper to 1 for ink.

    Example:
        >>> drawing = torch.zeros(1, 48, 48, dtype=torch.uint8)
        >>> distorted(drawing, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 32, 32])
    """
    x = _stroke(images[:, None].float() / 255, generator)
    x = F.grid_sample(x, _warp(len(x), generator), align_corners=False)
    return _scan(x, generator)


def _uniform(low: float, high: float, *shape: int, generator: Generator) -> Tensor:
    """Random amounts of a distortion, uniform between two bounds."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def _stroke(x: Tensor, generator: Generator) -> Tensor:
    """Distort strokes: thinner or thicker by up to two pixels of the drawing on each side."""
    thick = F.max_pool2d(x, 5, stride=1, padding=2)
    thin = -F.max_pool2d(-x, 3, stride=1, padding=1)
    amount = _uniform(-1, 1, len(x), 1, 1, 1, generator=generator)
    return torch.where(amount > 0, x.lerp(thick, amount.clamp(min=0)), x.lerp(thin, (-amount).clamp(min=0)))


def _warp(count: int, generator: Generator) -> Tensor:
    """Where each pixel of the distorted image looks in the drawing, ``[N, 32, 32, 2]``: affine, and a smooth wobble."""
    angle = _uniform(-0.3, 0.3, count, generator=generator)
    slant = _uniform(-0.4, 0.4, count, generator=generator)
    # Above 1 the glyph becomes smaller than the frame.
    wide = _uniform(0.95, 1.6, count, generator=generator)
    high = _uniform(0.95, 1.25, count, generator=generator)
    shift = _uniform(-0.1, 0.1, count, 2, generator=generator)
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([wide * cos, wide * (slant - sin), shift[:, 0], high * sin, high * cos, shift[:, 1]], dim=1)
    grid = F.affine_grid(rows.view(count, 2, 3), [count, 1, SIZE, SIZE], align_corners=False)
    wobble = torch.randn(count, 2, 4, 4, generator=generator) * 0.1
    smooth = F.interpolate(wobble, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return grid + smooth.permute(0, 2, 3, 1)


def _scan(x: Tensor, generator: Generator) -> Tensor:
    """Distort as a scanner of few pixels does: lose sharpness and contrast, and add noise."""
    side = _COARSE[int(torch.randint(len(_COARSE), (), generator=generator))]
    x = F.interpolate(x, size=(side, side), mode="area")
    peak = x.amax(dim=(1, 2, 3), keepdim=True).clamp(min=0.1)
    x = (x / peak) ** torch.exp(_uniform(-math.log(2), math.log(2), len(x), 1, 1, 1, generator=generator))
    x = x * _uniform(0.8, 1, len(x), 1, 1, 1, generator=generator)
    x = x + torch.randn(x.shape, generator=generator) * 0.03
    return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear").clamp(0, 1)
