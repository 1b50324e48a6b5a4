"""Stages of networks whose forward is more than a chain: several branches, tuples, and a step down at the end."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import zoo_core as zoo

X = torch.zeros(1, 3, 64, 64)


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def block(inputs, outputs, stride=1):
    return nn.Sequential(conv(inputs, outputs, stride), conv(outputs, outputs))


def ending(channels):
    return {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "out": nn.Linear(channels, 5)}


def steps(model):
    return [(stage.channels, stage.stride) for stage in zoo.anatomy(model).stages]


class Branches(nn.Module):
    """Two resolutions beside each other, as in HRNet, joined after them."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse, self.down = block(8, 8), block(16, 16), conv(8, 16, 2)

        def forward(self, maps):
            fine, coarse = self.fine(maps[0]), self.coarse(maps[1])
            return [fine, coarse + self.down(fine)]

    def __init__(self):
        super().__init__()
        self.stem, self.down = conv(3, 8, 2), conv(8, 16, 2)
        self.first, self.second = self.Both(), self.Both()
        self.out = nn.Linear(24, 5)

    def forward(self, x):
        x = self.stem(x)
        maps = self.second(self.first([x, self.down(x)]))
        return self.out(torch.cat([each.mean((2, 3)) for each in maps], 1))


class Pair(nn.Module):
    """A block that gives its map and something beside it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.body, self.gate = block(inputs, outputs, 2), nn.Linear(outputs, outputs)

    def forward(self, x):
        x = self.body(x)
        return x, self.gate(x.mean((2, 3)))


class Pairs(nn.Module):
    """Stages that give tuples, both of which are used."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.out = conv(3, 8, 2), Pair(8, 16), Pair(16, 32), nn.Linear(32, 5)

    def forward(self, x):
        x, gate = self.one(self.stem(x))
        x, other = self.two(x * gate[..., None, None])
        return self.out(x.mean((2, 3)) + other)


class Cells(nn.Module):
    """Each cell takes what the two before it gave, as in NASNet."""

    class Cell(nn.Module):
        def __init__(self, one, two, outputs, stride):
            super().__init__()
            self.one, self.two = block(one, outputs, stride), block(two, outputs, stride)

        def forward(self, x, before):
            before = nn.functional.adaptive_avg_pool2d(before, x.shape[-2:])
            return self.one(x) + self.two(before)

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, 2)
        self.cells = nn.ModuleList([self.Cell(8, 8, 16, 2), self.Cell(16, 8, 16, 1), self.Cell(16, 16, 32, 2)])
        self.out = nn.Linear(32, 5)

    def forward(self, x):
        before = x = self.stem(x)
        for cell in self.cells:
            before, x = x, cell(x, before)
        return self.out(x.mean((2, 3)))


def down_at_the_end():
    stages = [nn.Sequential(block(8, 8), block(8, 8), conv(8, 16, 2)), nn.Sequential(block(16, 16), block(16, 16))]
    return nn.Sequential(OrderedDict(stem=conv(3, 8, 2), body=nn.Sequential(*stages), **ending(16)))


def widened_for_the_head():
    body = nn.Sequential(block(8, 16, 2), block(16, 24, 2))
    return nn.Sequential(OrderedDict(stem=conv(3, 8, 2), body=body, wide=conv(24, 96), **ending(96)))


def layers_without_blocks():
    layers = []
    for inputs, outputs in ((3, 8), (8, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers), **ending(16)))


CASES = {
    "branches": (Branches, [(8, 2), (8, 2)]),
    "pairs": (Pairs, [(16, 4), (32, 8)]),
    "cells": (Cells, [(16, 4), (32, 8)]),
    "down at the end": (down_at_the_end, [(8, 2), (16, 4)]),
    "widened for the head": (widened_for_the_head, [(16, 4), (24, 8)]),
    "no blocks": (layers_without_blocks, [(8, 1), (16, 4)]),
}


@pytest.fixture(params=CASES)
def case(request):
    build, expected = CASES[request.param]
    torch.manual_seed(0)
    return zoo.adopt(build().eval(), example=X), expected


def test_stages_are_found(case):
    model, expected = case
    assert steps(model) == expected


def test_an_encoder_gives_maps_of_these_channels_and_strides(case):
    model, expected = case
    x = torch.randn(2, 3, 64, 64)
    deepest = {stride: channels for channels, stride in expected}  # one map a stride
    shapes = [(2, channels, 64 // stride, 64 // stride) for stride, channels in deepest.items()]
    assert [tuple(each.shape) for each in zoo.encoder(model)(x)] == shapes


def test_every_parameter_is_frozen_as_deep_as_it_is(case):
    model, _ = case
    last = zoo.anatomy(model).stages[-1]
    zoo.freeze(model, until=last.name)
    free = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name for name in free if name.startswith(tuple(last.modules))}
    assert not {name for name in free if name.startswith("stem")}


class PooledByAttention(nn.Module):
    """The pool is registered before the stages, and forward needs their last map beside its weights."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, 2)
        self.pool = nn.Linear(8, 1)
        self.layer1 = block(8, 8, 2)
        self.layer2 = block(8, 16, 2)
        self.widen = nn.Linear(16, 8)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.layer2(self.layer1(self.stem(x))).flatten(2).transpose(1, 2)
        weights = self.pool(self.widen(tokens)).softmax(1)
        return self.fc((weights.transpose(1, 2) @ tokens).squeeze(1))


def test_a_pool_by_attention_is_no_stage_and_is_deeper_than_all():
    model = zoo.adopt(PooledByAttention(), example=X)
    assert steps(model) == [(8, 4), (16, 8)]
    zoo.freeze(model, until="layer2")
    zoo.freeze(model, "layer2")
    free = {name.partition(".")[0] for name, each in model.named_parameters() if each.requires_grad}
    assert free == {"pool", "widen", "fc"}


class Detecting(nn.Module):
    """A detector of one's own: classes and boxes of each place, from one map."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = conv(3, 4, 2), conv(4, 8, 2), conv(8, 16, 2)
        self.classes, self.boxes = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 12, 1)

    def forward(self, x):
        x = self.three(self.two(self.one(x)))
        return self.classes(x).flatten(2), self.boxes(x).flatten(2)


def test_the_layers_of_one_output_of_several_are_in_no_stage():
    stages = zoo.trace(Detecting(), X).anatomy.stages
    assert [(stage.output, stage.channels) for stage in stages] == [("two", 8), ("three", 16)]


class Pyramid(Detecting):
    """Returns the maps of its stages."""

    def forward(self, x):
        two = self.two(self.one(x))
        return [two, self.three(two)]


def test_stages_of_a_network_that_returns_its_maps_are_those_of_all():
    stages = zoo.trace(Pyramid(), X).anatomy.stages
    assert [(stage.output, stage.stride) for stage in stages] == [("two", 4), ("three", 8)]
