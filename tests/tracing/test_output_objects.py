"""Models in the style of transformers: a configuration that repeats numbers, and output objects of several tensors."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.build.construct import anatomy_for
from zoo_core.plugin import Card, Family

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@dataclass
class Output:
    logits: torch.Tensor | None = None
    main: torch.Tensor | None = None
    teacher: torch.Tensor | None = None
    last: torch.Tensor | None = None


class Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.num_channels = config, config.num_channels
        self.patches = nn.Conv2d(config.num_channels, 8, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, 2, 8))
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        if x.shape[1] != self.num_channels:
            raise ValueError("other channels than configured")
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        for layer in self.layers:
            x = x + layer(x).relu()
        return Output(last=self.norm(x))


class Taught(nn.Module):
    """Two heads, the mean of what they give, and what each gives by itself."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=5, num_channels=3)
        self.body = Body(self.config)
        self.classifier, self.distilled = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x, labels=None):
        last = self.body(x).last
        main, teacher = self.classifier(last[:, 0]), self.distilled(last[:, 1])
        if labels is not None:
            nn.functional.cross_entropy(main.view(-1, self.config.num_labels), labels)
        return Output((main + teacher) / 2, main, teacher)


@pytest.fixture
def net():
    return zoo.adopt(Taught().eval(), example=X)


def test_heads_whose_scores_are_also_given_one_by_one_are_swapped_together(net):
    assert [(each.path, each.role) for each in zoo.anatomy(net).heads] == [
        ("classifier", "main"),
        ("distilled", "distilled"),
    ]
    output = zoo.swap_head(net, 9)(X)
    assert output.main.shape == output.teacher.shape == output.logits.shape == (2, 9)


def test_a_configuration_follows_the_number_of_classes(net):
    zoo.swap_head(net, 9)
    assert net.config.num_labels == 9
    net(X, labels=torch.tensor([0, 8]))


def test_a_configuration_and_the_layers_that_check_follow_the_channels(net):
    assert zoo.anatomy(net).channel_attributes == ("config.num_channels", "body.num_channels")
    assert zoo.adapt_stem(net, 4)(torch.randn(2, 4, 16, 16)).logits.shape == (2, 5)
    assert net.config.num_channels == 4


class Grouped(nn.Module):
    """Three groups of channels, whose number is kept where others keep that of the image."""

    def __init__(self, owner):
        super().__init__()
        self.config = SimpleNamespace(channels=3)
        self.owner, self.channels = owner, 3
        self.conv, self.fc = nn.Conv2d(3, 12, 3, 2), nn.Linear(12, 5)

    def forward(self, x):
        groups = self.channels if self.owner == "module" else self.config.channels
        x = self.conv(x)
        return self.fc(x.unflatten(1, (groups, -1)).flip(1).flatten(1, 2).mean((2, 3)))


@pytest.mark.parametrize("owner", ["module", "configuration"])
def test_a_number_of_another_meaning_stays_when_there_are_more_channels(owner):
    net = zoo.adopt(Grouped(owner), example=X)
    assert zoo.anatomy(net).channel_attributes == ()
    assert (zoo.adapt_stem(net, 6).channels, net.config.channels) == (3, 3)


def test_a_frozen_configuration_stays_as_it_is():
    @dataclass(frozen=True)
    class Frozen:
        num_channels: int = 3
        num_labels: int = 5

    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net.config = Frozen()
    zoo.swap_head(zoo.adapt_stem(zoo.adopt(net, example=X), 4), 7)
    assert net(torch.randn(2, 4, 16, 16)).shape == (2, 7)
    assert net.config == Frozen()


def test_features_end_inside_a_body_that_gives_an_object(net):
    assert zoo.anatomy(net).features is not None
    backbone, head = zoo.split(net)
    assert torch.equal(head(backbone(X)), net(X).logits)


class OneSize(nn.Sequential):
    def __init__(self, side):
        super().__init__(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(4 * (side // 4) ** 2, 5))


def test_a_family_is_traced_on_images_of_the_size_that_its_constructor_was_given():
    family = Family("acme", catalog="acme:cards", image_size="side")
    card = Card("acme", "net", "acme:OneSize", input_size=(3, 224, 224), options={"side": 224})
    traced = anatomy_for(SimpleNamespace(family=family, own={}), card, OneSize(32), {"side": 32})
    assert traced.main.path == "2"
