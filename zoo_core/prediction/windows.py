"""Where windows lie on an image, and how what they give is put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Blend = Literal["constant", "gaussian"]
_SPREAD = 0.125
"""Of the gaussian, in sizes of the window: as in MONAI, where its weights come from."""
_LEAST = 1e-3


def inner_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin that lie inside, as ``nn.Unfold`` has them: a rest that is less than a stride is left out.

    Example:
        >>> inner_starts(10, 4, 4)
        [0, 4]
    """
    return list(range(0, length - size + 1, stride))


def covering_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin that cover everything: the last one is moved back to the edge, as MONAI's inferer does.

    Example:
        >>> covering_starts(10, 4, 4)
        [0, 4, 6]
    """
    starts = inner_starts(length, size, stride)
    return starts if starts[-1] + size == length else [*starts, length - size]


def importance(size: tuple[int, int], blend: Blend) -> Tensor:
    """How much each pixel of a window counts, ``[H, W]``: the same, or most in the middle.

    Example:
        >>> importance((3, 3), "gaussian").argmax()
        tensor(4)
    """
    if blend == "constant":
        return torch.ones(size, device="cpu")
    rows, columns = (_bell(length) for length in size)
    return (rows[:, None] * columns).clamp(min=max(float(rows.min() * columns.min()), _LEAST))


def _bell(length: int) -> Tensor:
    x = torch.arange(length, dtype=torch.float32, device="cpu") - (length - 1) / 2
    return torch.exp(x**2 / (-2 * (_SPREAD * length) ** 2))


class Blender:
    """The weighted mean of overlapping windows, finished row by row from the top.

    Args:
        target: ``[K, H, W]``, written as rows are finished.
        weights: ``[h, w]``, how much each pixel of a window counts.
    """

    def __init__(self, target: Tensor, weights: Tensor) -> None:
        self._target, self._weights = target, weights
        channels, _, width = target.shape
        height = len(weights)
        self._sum = torch.zeros(channels, height, width, device="cpu")
        self._total = torch.zeros(height, width, device="cpu")
        self._top = 0

    def advance(self, top: int) -> None:
        """Begin a row of windows at ``top``; the rows above it are finished."""
        done = top - self._top
        self._finish(min(done, len(self._total)))
        if done < len(self._total):
            self._sum[:, : -done or None] = self._sum[:, done:].clone()
            self._total[: -done or None] = self._total[done:].clone()
        kept = max(len(self._total) - done, 0)
        self._sum[:, kept:], self._total[kept:] = 0, 0
        self._top = top

    def add(self, left: int, window: Tensor) -> None:
        """Add a window ``[K, h, w]`` that begins in this row at ``left``."""
        right = left + window.shape[-1]
        self._sum[:, :, left:right] += window * self._weights
        self._total[:, left:right] += self._weights

    def finish(self) -> None:
        """Finish the rows that are left."""
        self._finish(len(self._total))

    def _finish(self, count: int) -> None:
        if count:
            self._target[:, self._top : self._top + count] = self._sum[:, :count] / self._total[:count]
