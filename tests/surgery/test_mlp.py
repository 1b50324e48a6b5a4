"""Heads of several layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.architectures import every_architecture, model_under_test
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


def test_on_tokens_batch_norm_is_over_images_and_tokens():
    site = Head("head", in_features=6, num_classes=10, tokens=True)
    head, x = zoo.mlp_head(3, hidden=(5,), batch_norm=True).build(site), torch.randn(2, 7, 6)
    assert head(x).shape == (2, 7, 3)
    normed = head[:2](x).flatten(0, 1)
    assert torch.allclose(normed.mean(0), torch.zeros(5), atol=1e-6)
    assert torch.allclose(normed.std(0, correction=0), torch.ones(5), atol=1e-3)


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


RECIPES = {
    "efficientnet_b0": (
        "classifier.1",
        zoo.mlp_head(9, hidden=(512, 256), batch_norm=True, dropout=0.2),
        lambda: nn.Sequential(
            nn.Linear(1280, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(256, 9),
        ),
    ),
    "resnet18": (
        "fc",
        zoo.mlp_head(9, hidden=(256, 128)),
        lambda: nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 9)),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_deep_head_equals_the_recipe_by_hand(name):
    path, described, recipe = RECIPES[name]
    ours = zoo.freeze(zoo.get(name, weights=None, seed=0), "backbone", norm="train")
    by_hand = copy.deepcopy(ours)
    torch.manual_seed(3)
    by_hand.set_submodule(path, recipe())
    zoo.swap_head(ours, described, seed=3)
    assert repr(ours.get_submodule(path)) == repr(by_hand.get_submodule(path))
    assert_equal(ours, by_hand, lambda scores: scores)


@pytest.mark.parametrize(
    ("classes", "described", "after"),
    [
        (1, zoo.mlp_head(1, activation="sigmoid", squeeze=True), lambda scores: torch.sigmoid(scores).squeeze(1)),
        (4, zoo.mlp_head(4, activation="softmax"), lambda scores: torch.softmax(scores, 1)),
    ],
    ids=["sigmoid and squeeze", "softmax"],
)
def test_an_activation_after_the_output_equals_the_recipe_by_hand(classes, described, after):
    ours = zoo.freeze(zoo.get("resnet18", weights=None, seed=0), "backbone", norm="train")
    by_hand = copy.deepcopy(ours)
    torch.manual_seed(3)
    by_hand.fc = nn.Linear(512, classes)
    zoo.swap_head(ours, described, seed=3)
    assert_equal(ours, by_hand, after)


def assert_equal(ours, by_hand, after):
    """The same outputs in train and eval mode, and the same parameters in training."""
    x = torch.randn(4, 3, 64, 64)
    for training in (True, False):
        outputs = []
        for model in (ours, by_hand):
            torch.manual_seed(0)  # dropout
            outputs.append(model.train(training)(x))
        assert torch.equal(outputs[0], after(outputs[1]))
    trained = [[(p.requires_grad, p.shape) for p in model.parameters()] for model in (ours, by_hand)]
    assert trained[0] == trained[1]


@every_architecture
def test_on_any_family_an_activation_stands_behind_the_output(name):
    plain, x = model_under_test(name)
    ours, several = copy.deepcopy(plain), copy.deepcopy(plain)
    zoo.swap_head(plain, zoo.mlp_head(1), seed=3)
    head = zoo.mlp_head(1, activation="sigmoid", squeeze=True)
    zoo.swap_head(ours, head, seed=3)
    with torch.no_grad():
        expected = torch.sigmoid(plain(x)).squeeze(1)
        assert torch.equal(ours(x), expected)
        backbone, classifier = zoo.split(ours)
        assert torch.equal(classifier(backbone(x)), expected)
        assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(ours)))(x), expected)
        assert torch.equal(zoo.swap_head(ours, zoo.mlp_head(1), seed=3)(x), plain(x))
        linear = zoo.swap_head(copy.deepcopy(plain), {"a": zoo.mlp_head(1), "b": 3}, seed=3)
        zoo.swap_head(several, {"a": head, "b": 3}, seed=3)
        assert torch.equal(several(x)["a"], torch.sigmoid(linear(x)["a"]).squeeze(1))


@pytest.mark.parametrize("training", [True, False])
def test_where_scores_are_pooled_the_activation_follows_the_pooling(training):
    x = torch.randn(4, 3, 64, 64)
    plain = zoo.get("squeezenet1_1", weights=None, head=zoo.mlp_head(3), seed=0).train(training)
    ours = zoo.get("squeezenet1_1", weights=None, head=zoo.mlp_head(3, activation="softmax"), seed=0).train(training)
    torch.manual_seed(0)
    expected = torch.softmax(plain(x), 1)
    torch.manual_seed(0)
    assert torch.equal(ours(x), expected)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_an_activation_stands_behind_every_map_that_a_segmenter_returns(name):
    x, options = torch.randn(1, 3, 64, 64), {"weights_backbone": None}
    plain = zoo.get(name, weights=None, options=options, num_classes=1, seed=0).eval()
    ours = copy.deepcopy(plain)
    zoo.swap_head(plain, zoo.mlp_head(1), seed=3)
    zoo.swap_head(ours, zoo.mlp_head(1, activation="sigmoid", squeeze=True), seed=3)
    with torch.no_grad():
        expected, found = plain(x), ours(x)
    assert list(found) == list(expected)
    assert all(torch.equal(found[each], torch.sigmoid(maps).squeeze(1)) for each, maps in expected.items())


@pytest.mark.parametrize(
    ("name", "side", "auxiliary"),
    [("googlenet", 64, ("aux1.fc2", "aux2.fc2")), ("inception_v3", 299, ("AuxLogits.fc",))],
)
def test_auxiliary_heads_end_as_the_main_one_does(name, side, auxiliary):
    options = {"init_weights": False, "aux_logits": True}
    model = zoo.get(name, weights=None, options=options).train()
    zoo.swap_head(model, zoo.mlp_head(1, hidden=(8,), activation="sigmoid", squeeze=True))
    out = model(torch.randn(2, 3, side, side))
    assert all(scores.shape == (2,) and ((scores > 0) & (scores < 1)).all() for scores in out)
    for path in auxiliary:
        assert names(model.get_submodule(path)) == ["Linear", "Sigmoid", "Squeeze"]


def test_auxiliary_heads_end_as_each_of_several_does():
    heads = {"a": zoo.mlp_head(1, activation="sigmoid", squeeze=True), "b": 3}
    model = zoo.get("googlenet", weights=None, options={"init_weights": False}, head=heads).train()
    out = model(torch.randn(2, 3, 64, 64))
    assert out.aux_logits1["a"].shape == out.logits["a"].shape == (2,)
    assert out.aux_logits1["b"].shape == out.logits["b"].shape == (2, 3)


def test_a_branch_has_its_activation_behind_its_output():
    x = torch.randn(2, 3, 64, 64)
    model = zoo.get("squeezenet1_1", weights=None, seed=0).eval()
    at = zoo.anatomy(model).stages[-1].name
    plain = zoo.branch(copy.deepcopy(model), at=at, heads={"a": zoo.mlp_head(3)}, seed=3)
    zoo.swap_head(model, zoo.mlp_head(2, activation="tanh"))  # what followed the old head goes with it
    ours = zoo.branch(model, at=at, heads={"a": zoo.mlp_head(3, activation="softmax")}, seed=3)
    assert torch.equal(ours(x)["a"], torch.softmax(plain(x)["a"], 1))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x)["a"], ours(x)["a"])


def test_an_activation_behind_pooled_scores_compiles_without_a_graph_break():
    torch._dynamo.reset()
    x = torch.randn(2, 3, 64, 64)
    head = zoo.mlp_head(1, activation="sigmoid", squeeze=True)
    model = zoo.get("squeezenet1_1", weights=None, head=head).eval()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


def test_a_detector_refuses_an_activation_before_what_it_does_with_its_scores():
    model = zoo.get("fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, options={"weights_backbone": None})
    with pytest.raises(errors.NotSupported, match="goes on computing with the scores of"):
        zoo.swap_head(model, zoo.mlp_head(3, activation="softmax"))


def test_maps_without_their_axis_still_count_as_one_class():
    model = zoo.get("resnet18", weights=None).eval()
    zoo.swap_head(model, zoo.mlp_head(1, squeeze=True), at="features")
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 2, 2)
    assert zoo.anatomy(model).main.num_classes == 1


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
