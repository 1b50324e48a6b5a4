"""``zoo.probe``: how well classes can be told from embeddings, by their neighbours and by a linear layer."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.embedding.embed import Embeddings
from zoo_core.errors import UsageError
from zoo_core.utils.arguments import check_count, check_seed, strict_arguments

_TEST_SHARE = 5
"""One image in so many of each class is held out."""
_DECAY = 1e-3
_FEWEST = 2
_CONSTANT = 1e-6
"""Below which share of its mean the deviation of a feature is rounding: a unit that gives the same for all images."""


@dataclass(frozen=True)
class Probe:
    """How well classes can be told from embeddings.

    Attributes:
        knn: Share of held-out images whose nearest neighbours have their class.
        linear: Share of them that a linear layer on standardized vectors classifies correctly.
        classes: How many classes there are.
        train: How many images it was trained on.
        test: How many were held out.
    """

    knn: float
    linear: float
    classes: int
    train: int
    test: int

    def __str__(self) -> str:
        return (
            f"kNN {self.knn:.1%}, linear {self.linear:.1%} accuracy on {self.test} held-out images, "
            f"trained on {self.train} images of {self.classes} classes"
        )


@strict_arguments
def probe(embeddings: Embeddings | str | os.PathLike[str], *, k: int = 5, seed: int = 0) -> Probe:
    """How well the labels of embeddings can be told from their vectors: the quality of a backbone for these classes.

    One image in five of each class is held out. Classes with a single image are left out.

    Args:
        embeddings: Those of :func:`zoo_core.embed` of a folder of class folders, or the Parquet file that it wrote.
        k: How many neighbours vote.
        seed: Which images are held out.

    Returns:
        The accuracies.

    Raises:
        UsageError: There are not two classes of two images.

    Example:
        >>> import torch, zoo_core as zoo
        >>> vectors = torch.cat([torch.randn(20, 4) - 9, torch.randn(20, 4) + 9])
        >>> names, labels = tuple(map(str, range(40))), ("cat",) * 20 + ("dog",) * 20
        >>> found = zoo.probe(zoo.Embeddings(names, vectors, labels))
        >>> found.knn, found.linear, found.test
        (1.0, 1.0, 8)
    """
    check_count("k", k)
    result = embeddings if isinstance(embeddings, Embeddings) else Embeddings.load(embeddings)
    result.require_finite()
    x, y, classes = _labelled(result)
    held = _held_out(y, seed)
    train, test = (x[~held], y[~held]), (x[held], y[held])
    return Probe(_knn(train, test, k), _linear(train, test, classes), classes, len(train[0]), len(test[0]))


def _labelled(found: Embeddings) -> tuple[Tensor, Tensor, int]:
    """The vectors and class numbers to probe: those of classes with enough images."""
    counts = Counter(found.labels)
    names = sorted(label for label, count in counts.items() if label and count >= _FEWEST)
    if len(names) < _FEWEST:
        raise UsageError(
            f"{len(names)} classes of at least {_FEWEST} images cannot be told apart",
            expected="at least two",
            cause="labels are the folders of images inside the folder that was embedded",
            hint='zoo.embed(model, "photos/") of photos/cat/1.jpg and photos/dog/1.jpg has two',
        )
    numbers = {name: i for i, name in enumerate(names)}
    chosen = [i for i, label in enumerate(found.labels) if label in numbers]
    y = torch.tensor([numbers[found.labels[i]] for i in chosen], device="cpu")
    return found.vectors[chosen].float(), y, len(names)


def _held_out(y: Tensor, seed: int) -> Tensor:
    """Which vectors a probe tests on: a share of each class."""
    generator = torch.Generator().manual_seed(check_seed(seed))
    held = torch.zeros(len(y), dtype=torch.bool, device="cpu")
    for label in sorted({*y.tolist()}):
        own = torch.nonzero(y == label).flatten()
        order = own[torch.randperm(len(own), generator=generator, device="cpu")]
        held[order[: max(len(own) // _TEST_SHARE, 1)]] = True
    return held


def _knn(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], k: int) -> float:
    """The accuracy of a probe by the nearest neighbours."""
    similar = F.normalize(test[0], dim=1) @ F.normalize(train[0], dim=1).T
    near = similar.topk(min(k, len(train[0])), dim=1)
    votes = torch.zeros(len(test[0]), int(train[1].max()) + 1, device="cpu")
    votes.scatter_add_(1, train[1][near.indices], 1 + near.values / 1000)  # a tie goes to the nearer ones
    return (votes.argmax(1) == test[1]).float().mean().item()


def _linear(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int) -> float:
    """The accuracy of a probe by a linear layer."""
    mean, std = train[0].mean(0), train[0].std(0)
    std = torch.where(std > _CONSTANT * mean.abs(), std, 1)
    x, x_test = (train[0] - mean) / std, (test[0] - mean) / std
    weight = torch.zeros(classes, x.shape[1], requires_grad=True, device="cpu")
    bias = torch.zeros(classes, requires_grad=True, device="cpu")
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, train[1]) + _DECAY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch's
    return ((x_test @ weight.T + bias).argmax(1) == test[1]).float().mean().item()
