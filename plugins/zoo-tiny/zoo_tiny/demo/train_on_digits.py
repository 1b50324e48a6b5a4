"""What ``zoo demo`` measures: how far ten examples of each digit take a new head on a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn

import zoo_core as zoo

DIGITS = "123456789"
"""The classes. Zero is left out, so that nine classes are not the number any library would guess."""

EXAMPLES = 10
"""Labelled images of each digit."""

_BATCH = 15
_LEARNING_RATE = 0.01  # the best of 0.001 to 0.1 for the trained and for the untrained backbone alike


@dataclass(frozen=True)
class Digits:
    """Scanned handwritten digits, divided into a few to learn from and many to be tested on.

    Attributes:
        scans: ``[N, 8, 8]``, 0 for paper to 1 for ink.
        labels: ``[N]``, indices into :data:`DIGITS`.
        labelled: Indices of those to learn from.
        held_out: Indices of all others, in random order.
    """

    scans: Tensor
    labels: Tensor
    labelled: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Outcome:
    """How well one model learned the digits.

    Attributes:
        curve: Accuracy on the held-out digits in percent, before the first and after each epoch.
        predictions: ``[M]``, what the finished model takes each held-out digit for.
        accuracy: Of these predictions, in percent.
    """

    curve: tuple[float, ...]
    predictions: Tensor
    accuracy: float


def load_digits(seed: int) -> Digits:
    """The handwritten digits 1 to 9 of scikit-learn (UCI, 1998), which need no download.

    Args:
        seed: Decides which ten of each digit are labelled.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    nonzero = bunch.target > 0
    scans = torch.from_numpy(bunch.images[nonzero]).float() / 16
    labels = torch.from_numpy(bunch.target[nonzero]).long() - 1
    order = torch.randperm(len(labels), generator=Generator().manual_seed(seed))
    labelled = torch.cat([order[labels[order] == digit][:EXAMPLES] for digit in range(len(DIGITS))])
    return Digits(scans, labels, labelled, held_out=order[~torch.isin(order, labelled)])


def as_input(scans: Tensor, card: zoo.Card) -> Tensor:
    """Scans ``[N, 8, 8]`` as a model takes them: ``[N, 1, H, W]``, enlarged and normalized as its card says."""
    preprocessing = card.find().preprocessing
    enlarged = nn.functional.interpolate(scans[:, None], size=preprocessing.crop, mode="bilinear")
    return (enlarged - preprocessing.mean[0]) / preprocessing.std[0]


def train_head(
    model: nn.Module,
    images: Tensor,
    digits: Digits,
    *,
    epochs: int,
    seed: int,
    on_epoch: Callable[[float], None],
) -> Outcome:
    """Train a new head for the digits on a frozen backbone, and measure it after each epoch.

    A frozen backbone gives the same features every time, so each image goes through it once. The head learns from
    features of mean 0 and standard deviation 1: those of an untrained backbone are small, and it would learn slowly
    for that reason alone. The scaling is then folded into the head, and the finished model measured as it stands.

    Args:
        model: From ``zoo.get(..., freeze="backbone")``; its head is trained in place.
        images: ``[N, 1, H, W]``, all digits.
        digits: Their labels, and which are for learning.
        epochs: How often every labelled image is seen.
        seed: Decides their order.
        on_epoch: Called with the accuracy so far after each epoch.
    """
    model.eval()
    backbone, split_head = zoo.split(model)
    head = cast("nn.Linear", split_head)
    with torch.no_grad():
        features = backbone(images)
    mean, std = features[digits.labelled].mean(0), features[digits.labelled].std(0).clamp(min=1e-6)
    scaled = (features - mean) / std
    curve = [_accuracy(head(scaled), digits)]
    optimizer = torch.optim.Adam(head.parameters(), lr=_LEARNING_RATE)
    generator = Generator().manual_seed(seed)
    for _ in range(epochs):
        order = digits.labelled[torch.randperm(len(digits.labelled), generator=generator)]
        for batch in torch.split(order, _BATCH):
            loss = nn.functional.cross_entropy(head(scaled[batch]), digits.labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types there
            optimizer.step()
        curve.append(_accuracy(head(scaled), digits))
        on_epoch(curve[-1])
    with torch.no_grad():
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
        scores = model(images)
    return Outcome(tuple(curve), scores[digits.held_out].argmax(1), _accuracy(scores, digits))


@contextmanager
def one_thread() -> Iterator[None]:
    """Train on the digits in one thread: there are so few that two threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _accuracy(scores: Tensor, digits: Digits) -> float:
    """Percent of the held-out digits that the model of the demo names correctly."""
    right = scores[digits.held_out].argmax(1) == digits.labels[digits.held_out]
    return round(100 * right.double().mean().item(), 2)
