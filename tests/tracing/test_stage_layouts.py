"""How the maps of stages lie, where modules give them in several layouts, and where stages differ in theirs."""

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.errors import AnatomyError

IMAGE = torch.zeros(1, 3, 32, 32)


class Merge(nn.Module):
    """Joins 2 x 2 tokens, and gives the tokens and the same numbers as a map, of another scale if so."""

    def __init__(self, inputs, outputs, order, times=1):
        super().__init__()
        self.merge, self.mlp = nn.Linear(4 * inputs, outputs), nn.Sequential(nn.Linear(outputs, outputs), nn.GELU())
        self.order, self.times = order, times

    def forward(self, x):
        n, tokens, channels = x.shape
        side = round(tokens**0.5)
        x = x.view(n, side // 2, 2, side // 2, 2, channels).transpose(2, 3).reshape(n, tokens // 4, -1)
        x = self.merge(x)
        x = x + self.mlp(x)
        both = {"tokens": x, "map": x.view(n, side // 2, side // 2, -1).permute(0, 3, 1, 2)}
        if self.times > 1:
            both["map"] = self.times * both["map"]
        return tuple(both[each] for each in self.order)


class Tokens(nn.Module):
    """Works on tokens, as transformers' Swin does; only of the last stage the map is used."""

    def __init__(self, order, **settings):
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(32, 5)
        self.one, self.two, self.three = (Merge(*widths, order, **settings) for widths in ((8, 8), (8, 16), (16, 32)))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        at = self.one.order.index("tokens")
        x = self.two(self.one(x)[at])[at]
        return self.head(self.three(x)[1 - at].mean((2, 3)))


def down(inputs, outputs, *layers):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 2, 2), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1), *layers)


class Last(nn.Module):
    """A layer that lowers the resolution of a map with the channels last, and a block."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.merge, self.block = nn.Linear(4 * inputs, outputs), nn.Sequential(nn.Linear(outputs, outputs), nn.GELU())

    def forward(self, x):
        n, height, width, _ = x.shape
        x = x.view(n, height // 2, 2, width // 2, 2, -1).transpose(2, 3).reshape(n, height // 2, width // 2, -1)
        return self.block(self.merge(x))


class Turned(nn.Module):
    """Stages with the channels on the second axis, and then stages with them on the last."""

    def __init__(self):
        super().__init__()
        self.one, self.two = down(3, 8), down(8, 16)
        self.three, self.four, self.head = Last(16, 16), Last(16, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.two(self.one(x)).permute(0, 2, 3, 1)
        return self.head(self.four(self.three(x)).mean((1, 2)))


class Joined(nn.Module):
    """Stages of maps, and a last one of tokens."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = down(3, 8), down(8, 16), down(16, 24)
        self.four, self.head = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 32)), nn.Linear(32, 5)

    def forward(self, x):
        x = self.three(self.two(self.one(x))).flatten(2).transpose(1, 2)
        return self.head(self.four(x).mean(1))


@pytest.mark.parametrize("order", [("tokens", "map"), ("map", "tokens")])
def test_a_map_that_only_the_head_uses_is_read_as_the_tokens_of_the_other_stages(order):
    model = zoo.adopt(Tokens(order), example=IMAGE).eval()
    anatomy = zoo.anatomy(model)
    assert anatomy.layout == "NLC"
    assert [(stage.output, stage.channels, stage.stride) for stage in anatomy.stages] == [
        ("one", 8, 4),
        ("two", 16, 8),
        ("three", 32, 16),
    ]
    x = torch.randn(2, 3, 32, 32)
    found = zoo.features(model, x)
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "one": (2, 64, 8),
        "two": (2, 16, 16),
        "three": (2, 4, 32),
    }
    torch.testing.assert_close(model.head(found["three"].mean(1)), model(x))


def test_a_map_of_other_numbers_than_the_tokens_is_not_exchanged_for_them():
    model = zoo.adopt(Tokens(("tokens", "map"), times=2), example=IMAGE).eval()
    x = torch.randn(2, 3, 32, 32)
    found = zoo.features(model, x)["three"]
    torch.testing.assert_close(model.head(found.mean((2, 3))), model(x))
    assert [tuple(each.shape[1:]) for each in zoo.encoder(model)(x)] == [(8, 8, 8), (16, 4, 4), (32, 2, 2)]


def test_stages_with_channels_first_and_last_are_refused_and_named():
    found = zoo.trace(Turned(), IMAGE)
    assert not found.anatomy.stages
    assert "'two' give NCHW and 'three', 'four' give NHWC; stages= names those of one" in found.missing["stages"]
    assert [stage.name for stage in zoo.trace(Turned(), IMAGE, stages=["three", "four"]).anatomy.stages] == [
        "three",
        "four",
    ]
    with pytest.raises(AnatomyError, match="'two' give NCHW and 'four' give NHWC"):
        zoo.trace(Turned(), IMAGE, stages=["two", "four"])


def test_named_stages_that_give_several_tensors_are_read():
    model = zoo.adopt(Tokens(("map", "tokens")), example=IMAGE, stages=["two", "three"]).eval()
    assert [tuple(each.shape[1:]) for each in zoo.encoder(model)(IMAGE)] == [(16, 4, 4), (32, 2, 2)]


def test_tokens_beside_maps_are_read_as_tokens():
    model = zoo.adopt(Joined(), example=IMAGE).eval()
    assert zoo.anatomy(model).layout == "NCHW"
    assert [tuple(each.shape[1:]) for each in zoo.encoder(model)(IMAGE)][-1] == (32, 4, 4)


def test_channels_of_tokens_beside_maps_follow_a_change_by_hand():
    model = zoo.adopt(Joined(), example=IMAGE)
    model.four[2], model.head = nn.Linear(32, 40), nn.Linear(40, 5)
    assert zoo.anatomy(model).stages[-1].channels == 40
