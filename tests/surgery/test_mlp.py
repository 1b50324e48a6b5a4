"""Heads of several layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import Head, errors

SITE = Head("fc", in_features=6, num_classes=10)


def names(head):
    return [type(layer).__name__ for layer in head]


def test_without_hidden_layers_it_is_one_linear_layer():
    assert names(zoo.mlp_head(3).build(SITE)) == ["Linear"]


def test_each_hidden_layer_is_followed_by_norm_nonlinearity_and_dropout():
    head = zoo.mlp_head(3, hidden=(5, 4), batch_norm=True, dropout=0.2).build(SITE)
    block = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert names(head) == [*block, *block, "Linear"]


def test_the_widths_go_from_the_site_to_the_classes():
    head = zoo.mlp_head(3, hidden=(5, 4)).build(SITE)
    widths = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert widths == [(6, 5), (5, 4), (4, 3)]


def test_on_a_map_it_is_made_of_convolutions():
    head = zoo.mlp_head(3, hidden=(5,), batch_norm=True).build(Head("c", in_features=6, num_classes=1, kind="conv"))
    assert names(head) == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert head(torch.zeros(2, 6, 4, 4)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("softmax", lambda x: torch.softmax(x, 1)),
        ("log_softmax", lambda x: torch.log_softmax(x, 1)),
    ],
)
def test_an_activation_stands_behind_the_scores(activation, function):
    head = zoo.mlp_head(3, activation=activation).build(SITE)
    x = torch.randn(4, 6)
    assert torch.equal(head(x), function(head[0](x)))


def test_a_single_score_can_lose_its_axis():
    assert zoo.mlp_head(1, activation="sigmoid", squeeze=True).build(SITE)(torch.zeros(4, 6)).shape == (4,)


@pytest.mark.parametrize("nonlinearity", ["relu", "gelu", "silu", "hardswish", "tanh", None])
def test_the_nonlinearity_can_be_chosen(nonlinearity):
    head = zoo.mlp_head(3, hidden=(5,), nonlinearity=nonlinearity).build(SITE)
    assert len(head) == (2 if nonlinearity is None else 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 0},
        {"num_classes": 3, "hidden": (0,)},
        {"num_classes": 3, "hidden": 512},
        {"num_classes": 3, "hidden": ("512",)},
        {"num_classes": 3, "dropout": 1.0},
        {"num_classes": 3, "dropout": -0.1},
        {"num_classes": 3, "nonlinearity": "rellu"},
        {"num_classes": 3, "activation": "soft"},
        {"num_classes": 3, "squeeze": True},
        {"num_classes": 3, "drop": 0.5},
    ],
)
def test_an_impossible_value_is_refused(wrong):
    with pytest.raises(errors.UsageError):
        zoo.mlp_head(**wrong)
