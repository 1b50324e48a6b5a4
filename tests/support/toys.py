"""A family of one small network, and the ways to get its anatomy wrong."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from zoo_core import Anatomy, Card, Chain, Family, Head, Stage, Weights, flatten
from zoo_core.plugins import Plugin
from zoo_core.registry import Zoo

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


def _head(index, **changes):
    def wrong(model):
        right = anatomy(model)
        heads = list(right.heads)
        heads[index] = replace(heads[index], **changes)
        return replace(right, heads=tuple(heads))

    return wrong


def _stage(**changes):
    def wrong(model):
        right = anatomy(model)
        return replace(right, stages=(right.stages[0], replace(right.stages[1], **changes)))

    return wrong


def _whole(**changes):
    return lambda model: replace(anatomy(model), **changes)


def without_aux(model):
    right = anatomy(model)
    return replace(right, heads=right.heads[:1])


def doubled(model, x):
    return 2 * x.mean((2, 3))


MUTANTS = {
    "wrong head path": (_head(0, path="fc1"), "head site 'fc1': no such module; did you mean 'fc'"),
    "wrong stem path": (_whole(stem=("conv2",)), "stem 'conv2': no such module; did you mean 'conv1'"),
    "wrong stage path": (_stage(modules=("layer9",)), "stage layer2 'layer9': no such module"),
    "wrong in_features": (_head(0, in_features=7), "'fc' is given 8 features, not 7"),
    "wrong stride": (_stage(stride=16), "so its stride is not 16"),
    "wrong stride, too small": (_stage(stride=4), "so its stride is not 4"),
    "wrong channels": (_stage(channels=6), "has 8 channels, not 6"),
    "split that skips a norm": (_whole(pool=Chain("pool", flatten)), "split and forward differ"),
    "split that skips a stage": (_whole(features=Chain("conv1", "bn1", "layer1")), ""),
    "split that scales": (_whole(pool=doubled), "split and forward differ"),
    "aux head left behind": (without_aux, "still 10-way after the swap: aux"),
}

CARD = Card("toy", "toy", "toys:Toy", num_classes=10, weights=(V1,), default="V1")


def cards():
    return [CARD]


def zoo_of(found=None) -> Zoo:
    """A registry with the toy family alone, its anatomy the right one or another."""
    globals()["current"] = found or anatomy
    return Zoo((Plugin("toy", "toy 1.0", families=(Family("toy", "toys:cards", "toys:as_told"),)),))


def as_told(model):
    return globals()["current"](model)


def batch():
    return torch.randn(2, 3, 64, 64)
