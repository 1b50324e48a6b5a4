"""Layers that run between two stages are cut off, frozen and trained with these, wherever they are registered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo_core as zoo

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def block(inputs, outputs):
    first = nn.Conv2d(inputs, outputs, 3, 2, 1)
    return nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1))


class Registered(nn.Module):
    """Three stages, and a layer between two of them that is registered first, in its place, or last."""

    def __init__(self, when):
        super().__init__()
        between = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        if when == "first":
            self.between = between
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), block(8, 8)
        if when == "in its place":
            self.between = between
        self.b, self.c, self.fc = block(8, 16), block(16, 32), nn.Linear(32, 10)
        if when == "last":
            self.between = between

    def forward(self, x):
        x = self.a(self.stem(x))
        return self.fc(self.c(self.b(x + self.between(x))).mean((2, 3)))


class Nested(nn.Module):
    """The first stages of a U-Net++: a decoder runs between them, and the last of them does without it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = block(3, 8), block(8, 16), block(16, 32)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.ConvTranspose2d(32, 8, 4, 4)
        self.fc = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        nested = a + self.up(b)
        return self.fc(nested + self.last(self.c(b)))


@pytest.fixture(params=["first", "in its place", "last"])
def net(request):
    torch.manual_seed(0)
    return zoo.adopt(Registered(request.param).eval(), example=X[:1])


def test_encoder_gives_the_maps_of_the_whole_model(net):
    maps = zoo.features(net, X)
    for name, ours in zip(maps, zoo.encoder(net)(X), strict=True):
        assert torch.equal(ours, maps[name])


@pytest.mark.parametrize("stage", ["a", "b", "c"])
def test_truncated_model_gives_the_map_of_the_whole_model(net, stage):
    assert torch.equal(zoo.truncate(net, after=stage)(X), zoo.features(net, X)[stage])


def test_stages_named_by_the_user_are_cut_likewise():
    torch.manual_seed(0)
    net = zoo.adopt(Registered("last").eval(), example=X[:1], stages=["a", "b"])
    assert torch.equal(zoo.encoder(net)(X)[1], zoo.features(net, X)["b"])


def test_no_parameter_of_an_encoder_is_without_gradient(net):
    encoder = zoo.encoder(net, at=["a", "b"])
    sum(each.sum() for each in encoder(X)).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_freezing_up_to_a_stage_freezes_what_it_needs(net):
    zoo.freeze(net, until="c")
    assert not any(parameter.requires_grad for parameter in net.between.parameters())


def test_freezing_up_to_the_stage_before_leaves_a_layer_registered_first_trainable():
    net = zoo.freeze(zoo.adopt(Registered("first").eval(), example=X[:1]), until="a")
    assert all(parameter.requires_grad for parameter in net.between.parameters())


def test_decoder_between_stages_is_refused_by_name():
    net = zoo.adopt(Nested().eval(), example=X[:1], stages=["a", "b", "c"])
    assert zoo.features(net, X)["c"].shape == (2, 32, 8, 8)
    with pytest.raises(zoo.errors.NotSupported, match="cannot be cut there: 'up' runs before"):
        zoo.encoder(net)(X)


def test_anatomy_by_hand_that_forgets_a_layer_is_refused_by_name():
    given = zoo.anatomy(zoo.adopt(Registered("in its place"), example=X[:1]))
    net = zoo.adopt(Registered("last").eval(), anatomy=given)
    with pytest.raises(zoo.errors.NotSupported, match="'between' runs before that feature map"):
        zoo.truncate(net, after="b")(X)


class Side(nn.Module):
    """A norm on each map, for scores of all of them, that runs before the next stage."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = block(3, 8), block(8, 16), nn.Linear(24, 5)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(16)])

    def forward(self, x):
        scores = []
        for stage, norm in zip((self.a, self.b), self.norms, strict=True):
            x = stage(x)
            scores.append(norm(x).mean((2, 3)))
        return self.fc(torch.cat(scores, 1))


def test_layers_that_run_early_and_do_not_matter_are_left_out():
    net = zoo.adopt(Side().eval(), example=X[:1], stages=["a", "b"])
    encoder = zoo.encoder(net)
    assert torch.equal(encoder(X)[1], zoo.features(net, X)["b"])
    assert not any("norms" in name for name, _ in encoder.named_parameters())
