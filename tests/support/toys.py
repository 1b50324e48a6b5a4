"""A family of one small network. The ways to get it wrong are in mutants.py."""

from __future__ import annotations

import torch
from torch import nn

from zoo_core import Anatomy, Card, Chain, Family, Head, Stage, Weights, flatten
from zoo_core.registry.plugins import Plugin
from zoo_core.registry.zoo import Zoo

V1 = Weights("V1", urls=("https://example.org/toy-5c106cde.pth",), sha256="5c106cde", num_classes=10)


class Toy(nn.Module):
    """Two stages, a norm after pooling, and an auxiliary head that only trains."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, num_classes)
        self.aux = nn.Linear(6, num_classes)

    def forward(self, x):
        middle = self.layer1(self.bn1(self.conv1(x)))
        scores = self.fc(self.norm(self.pool(self.layer2(middle)).flatten(1)))
        return (scores, self.aux(middle.mean((2, 3)))) if self.training else scores


class Fickle(Toy):
    """It computes something else once it is compiled."""

    def forward(self, x):
        return super().forward(x) + float(torch.compiler.is_compiling())


class Broken(Toy):
    """Its own forward breaks the graph once, as that of some libraries does."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


def anatomy(model):
    """The right one."""
    return Anatomy(
        heads=(
            Head("fc", in_features=8, num_classes=model.fc.out_features, attributes=("num_classes",)),
            Head("aux", in_features=6, num_classes=model.aux.out_features, role="aux"),
        ),
        stem=("conv1",),
        stages=(Stage("layer1", ("layer1",), 6, 4), Stage("layer2", ("layer2",), 8, 8)),
        features=Chain("conv1", "bn1", "layer1", "layer2"),
        pool=Chain("pool", flatten, "norm"),
    )


CARD = Card("toy", "toy", "support.toys:Toy", num_classes=10, weights=(V1,), default="V1")


def zoo_of(anatomy_function=None, *cards, exceptions="") -> Zoo:
    """A registry with the toy family alone: its anatomy and its cards the right ones, or others."""
    current.update(anatomy=anatomy_function or anatomy, cards=cards or (CARD,))
    family = Family("toy", "support.toys:cards", "support.toys:as_told", exceptions=exceptions)
    return Zoo((Plugin("toy", "toy 1.0", families=(family,)),))


current = {"anatomy": anatomy, "cards": (CARD,)}


def cards():
    return list(current["cards"])


def as_told(model):
    return current["anatomy"](model)


def batch():
    return torch.randn(2, 3, 64, 64)
