"""What a model is given to run on: a small batch of noise, in the way in which models of its task take one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.under_test import DETECTORS, by_shapes, model_under_test
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_core.contract.card import Card

_SMALL_SIDE = 64
_SMALL_SIDES = {"optical_flow": 128}  # RAFT compares maps of an eighth of the picture on four levels
_BOX = (8.0, 8.0, 40.0, 40.0)
_LABEL = 1


def example(card: Card, batch: int = 2) -> Tensor:
    """A batch of noise as small as the model takes: 64 pixels a side, or the size it was designed for.

    Args:
        card: The model.
        batch: How many pictures.

    Returns:
        ``[batch, C, H, W]``, with frames before the rows for a video. :func:`arguments` makes of it what the model is
        called with.
    """
    channels, *sides = card.input_size
    most = _SMALL_SIDES.get(card.task, _SMALL_SIDE)
    small = tuple(min(side, most) for side in sides)
    device = "meta" if by_shapes(card) else "cpu"
    with seeded(0):
        tries = [torch.randn(batch, channels, *size, device=device) for size in dict.fromkeys((small, tuple(sides)))]
    return next((x for x in tries[:-1] if _takes(card, x)), tries[-1])


def arguments(card: Card, pictures: Tensor, *, train: bool = False) -> tuple[Any, ...]:
    """What a model of this task is called with for a batch of pictures.

    A detector is given a list of pictures, and what is in them while it trains; optical flow is given two pictures at a
    time, of which the second differs from the first in its last channel. Any other model is given the batch.

    Args:
        card: The model.
        pictures: ``[N, C, H, W]``.
        train: Whether the model is in train mode.

    Example:
        >>> import zoo_core as zoo
        >>> [x.shape for x in arguments(zoo.info("torchvision/raft_small"), torch.zeros(2, 3, 128, 128))]
        [torch.Size([2, 3, 128, 128]), torch.Size([2, 3, 128, 128])]
    """
    if card.task in DETECTORS:
        return ([*pictures], [_target(card, picture) for picture in pictures]) if train else ([*pictures],)
    if card.task == "optical_flow":
        later = pictures.clone()
        later[:, -1] += 1
        return pictures, later
    return (pictures,)


def inputs_of(card: Card, batch: int = 2, *, train: bool = False) -> tuple[Any, ...]:
    """What to call a model with: :func:`arguments` for its :func:`example`."""
    return arguments(card, example(card, batch), train=train)


def _target(card: Card, picture: Tensor) -> dict[str, Tensor]:
    """One object in a picture, with all that a detector could be taught of it."""
    left, top, right, bottom = _BOX
    mask = torch.zeros(1, *picture.shape[-2:], dtype=torch.uint8)
    mask[:, int(top) : int(bottom), int(left) : int(right)] = 1
    target = {"boxes": torch.tensor([_BOX]), "labels": torch.tensor([_LABEL]), "masks": mask}
    path = anatomy_of(model_under_test(card)).keypoints
    if path:
        count = cast("nn.ConvTranspose2d", model_under_test(card).get_submodule(path)).out_channels
        target["keypoints"] = torch.tensor([(left + right) / 2, (top + bottom) / 2, 1]).expand(1, count, 3).clone()
    return target


_sizes: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], bool]] = WeakKeyDictionary()


def _takes(card: Card, x: Tensor) -> bool:
    """Whether a model runs on pictures of this size, found by running it once."""
    model, size = model_under_test(card), tuple(x.shape[1:])
    known = _sizes.setdefault(model, {})
    if size not in known:
        try:
            with torch.no_grad():
                copy.deepcopy(model)(
                    *arguments(card, x[:1])
                )  # a Swin of transformers keeps the smaller windows it takes
            known[size] = True
        except (RuntimeError, ValueError, AssertionError):  # how models say that a picture is too small for them
            known[size] = False
    return known[size]
