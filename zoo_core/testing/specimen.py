"""What checks are made on: an untrained model, a small picture, and the error that says what is wrong."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from zoo_core.build import get
from zoo_core.errors import PluginError
from zoo_core.surgery.head import seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo_core.card import Card

_SMALL_SIDE = 64


class NonConformance(PluginError, AssertionError):
    """A family does not keep a promise; the message names the model, the part and the cause."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - it is the subject of the sentence
    """Say ``message`` as a finding unless the condition holds."""
    if not condition:
        raise NonConformance(message)


def specimen(card: Card) -> nn.Module:
    """An untrained model of this card in eval mode, always with the same parameters. Copy it before changing it."""
    return _specimen(card.id)


@lru_cache(maxsize=1)
def _specimen(name: str) -> nn.Module:
    return get(name, weights=None, seed=0).eval()


def example(card: Card, batch: int = 2) -> Tensor:
    """A batch of noise as small as the model takes: 64 pixels a side, or the size it was designed for.

    Args:
        card: The model.
        batch: How many pictures.
    """
    channels, *sides = card.input_size
    small = tuple(min(side, _SMALL_SIDE) for side in sides)
    with seeded(0):
        tries = [torch.randn(batch, channels, *size) for size in dict.fromkeys((small, tuple(sides)))]
    for x in tries[:-1]:
        try:
            with torch.no_grad():
                specimen(card)(x[:1])
        except (RuntimeError, ValueError, AssertionError):  # how models say that a picture is too small for them
            continue
        return x
    return tries[-1]
