"""What checks are made on: an untrained model, a small picture, and the errors that say what is wrong."""

from __future__ import annotations

import copy
import gc
import unittest
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from zoo_core.build import get
from zoo_core.construct import construct
from zoo_core.errors import PluginError
from zoo_core.registry import current_zoo
from zoo_core.surgery.head import seeded
from zoo_core.testing.network import without_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from zoo_core.card import Card

_SMALL_SIDE = 64
SHAPES_ABOVE = 300_000_000
"""Parameters beyond which a model is looked at without values: copies of it would fill the memory of a laptop."""
_NOT_A_BATCH = ("detection", "keypoints", "optical_flow")
_shapes_above: ContextVar[int] = ContextVar("shapes_above", default=SHAPES_ABOVE)


class NonConformance(PluginError, AssertionError):
    """A family does not keep a promise; the message names the model, the part and the cause."""


class NotChecked(unittest.SkipTest):
    """A check that can say nothing about this model; the message says why. pytest shows it as skipped."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - it is the subject of the sentence
    """Say ``message`` as a finding unless the condition holds."""
    if not condition:
        raise NonConformance(message)


@contextmanager
def shapes_above(parameters: int) -> Iterator[None]:
    """Inside the block, models whose cards tell of more parameters than this are checked by their shapes alone.

    They are built without initial values and moved to torch's meta device: their memory is never touched, and paths,
    channels, strides, gradients and shapes are what they would be. What needs values is not checked.

    Args:
        parameters: The most that a model with values may have; 0 checks every model by its shapes.

    Example:
        >>> import zoo_core as zoo
        >>> with shapes_above(0):
        ...     specimen(zoo.info("tiny/glyphnet")).fc.weight.is_meta
        True
    """
    token = _shapes_above.set(parameters)
    try:
        yield
    finally:
        _shapes_above.reset(token)


def by_shapes(card: Card) -> bool:
    """Whether this model is looked at without values."""
    return (card.parameters or 0) > _shapes_above.get()


def need_values(card: Card) -> None:
    """Raise :class:`NotChecked` where the model has none."""
    if by_shapes(card):
        limit = f"{_shapes_above.get():,} parameters" if _shapes_above.get() > 0 else "no parameters at all"
        raise NotChecked(f"{card.id} is looked at by its shapes alone, as all models of more than {limit}")


def specimen(card: Card) -> nn.Module:
    """An untrained model of this card in eval mode, always with the same parameters. Copy it before changing it.

    Args:
        card: What to build.

    Raises:
        NonConformance: Building it needs a network.
        FamilyUnavailable: Its library is missing, or its constructor fails.
    """
    return _specimen(card.id, shapes=by_shapes(card))


def forget() -> None:
    """Give back the memory of the last specimen."""
    _specimen.cache_clear()
    gc.collect()  # a frozen or adapted copy holds itself in a cycle, and the next model may need its memory


@lru_cache(maxsize=1)
def _specimen(name: str, *, shapes: bool) -> nn.Module:
    with without_network() as attempts, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a library says of its own way of initialising
        try:
            model = _bare(name) if shapes else get(name, weights=None, seed=0)
        finally:
            require(
                not attempts,
                f"{name}: its constructor asks the network for {', '.join(attempts)}; it must build untrained without "
                "one: the weights are zoo's to fetch",
            )
    return model.eval()


def _bare(name: str) -> nn.Module:
    card = current_zoo().resolve(name)[0]
    return construct(card, card.options, values=False).to("meta")


def example(card: Card, batch: int = 2) -> Tensor:
    """A batch of noise as small as the model takes: 64 pixels a side, or the size it was designed for.

    Args:
        card: The model.
        batch: How many pictures.

    Raises:
        NotChecked: The model does not take a batch of pictures.
    """
    if card.task in _NOT_A_BATCH:
        raise NotChecked(f"{card.id} does {card.task}: the kit runs only what takes a batch of pictures")
    channels, *sides = card.input_size
    small = tuple(min(side, _SMALL_SIDE) for side in sides)
    device = "meta" if by_shapes(card) else "cpu"
    with seeded(0):
        tries = [torch.randn(batch, channels, *size, device=device) for size in dict.fromkeys((small, tuple(sides)))]
    return next((x for x in tries[:-1] if _takes(card, x)), tries[-1])


_sizes: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], bool]] = WeakKeyDictionary()


def _takes(card: Card, x: Tensor) -> bool:
    """Whether a model runs on pictures of this size, found by running it once."""
    model, size = specimen(card), tuple(x.shape[1:])
    known = _sizes.setdefault(model, {})
    if size not in known:
        try:
            with torch.no_grad():
                copy.deepcopy(model)(x[:1])  # a Swin of transformers keeps the smaller windows that it takes for it
            known[size] = True
        except (RuntimeError, ValueError, AssertionError):  # how models say that a picture is too small for them
            known[size] = False
    return known[size]
