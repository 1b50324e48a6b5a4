"""Convolutions between features and classifier: the head takes the feature map instead of the pooled vector."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.architectures import (
    every_architecture_that_combines_heads,
    every_architecture_with_one_head,
    model_under_test,
)
from torch import nn

import zoo_core as zoo
from zoo_core import errors


class Upscale(nn.Module):
    """A head of the blog kind: a transposed convolution, pooling, and one linear layer."""

    def __init__(self, channels, classes):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, 16, 2, stride=2)
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        return self.fc(self.pool(self.up(x)).flatten(1))


def model_and_head():
    torch.manual_seed(0)
    return zoo.get("resnet18", weights=None, seed=0).eval(), Upscale(512, 9).eval()


X = torch.randn(2, 3, 64, 64)


def test_it_equals_the_recipe_by_hand():
    ours, head = model_and_head()
    zoo.freeze(ours, "backbone")
    by_hand = nn.Sequential(*list(copy.deepcopy(ours).children())[:-2], copy.deepcopy(head))
    zoo.swap_head(ours, head, at="features")
    assert torch.equal(ours(X), by_hand(X))
    assert [p.requires_grad for p in by_hand.parameters()] == [p.requires_grad for p in ours.parameters()]


def test_the_class_and_the_keys_outside_the_head_stay():
    model, head = model_and_head()
    kind, before = type(model), {name for name in model.state_dict() if not name.startswith("fc.")}
    zoo.swap_head(model, head, at="features")
    assert isinstance(model, kind)
    assert {name for name in model.state_dict() if not name.startswith("fc.")} == before


@every_architecture_that_combines_heads
def test_a_model_that_combines_several_heads_says_so_and_stays_as_it_was(name):
    model, x = model_under_test(name)
    with torch.no_grad():
        before = model(x)
        with pytest.raises(errors.NotSupported, match="its own forward goes on computing with what"):
            zoo.swap_head(model, 3, at="features")
        assert torch.equal(model(x), before)


@every_architecture_with_one_head
def test_on_any_family_the_head_is_given_the_features(name):
    model, x = model_under_test(name)
    anatomy = zoo.anatomy(model)
    with torch.no_grad():
        features = anatomy.features(model, x)
        channels = features.shape[1 if anatomy.layout == "NCHW" else -1]
        layer = nn.Conv2d(channels, 9, 1) if anatomy.layout == "NCHW" else nn.Linear(channels, 9)
        zoo.swap_head(model, layer, at="features")
        assert torch.equal(model(x), layer(features))
        assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))(x), layer(features))


@every_architecture_with_one_head
def test_on_any_family_no_parameter_is_left_without_a_gradient(name):
    model, x = model_under_test(name)
    zoo.swap_head(model, 3, at="features").train()
    model(torch.cat([x, x])).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_hidden_layers_between_features_and_head_go():
    model = zoo.swap_head(zoo.get("vgg11", weights=None), 9, at="features")
    assert [name for name in model.state_dict() if name.startswith("classifier")] == [
        "classifier.6.weight",
        "classifier.6.bias",
    ]
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 9, 2, 2)


def test_a_number_scores_every_place_of_the_map():
    model = zoo.swap_head(zoo.get("resnet18", weights=None).eval(), 9, at="features")
    assert model(X).shape == (2, 9, 2, 2)


def test_a_head_that_flattens_fits_the_size_it_is_told():
    head = nn.Sequential(nn.Flatten(), nn.Linear(512 * 2 * 2, 9))
    model = zoo.swap_head(zoo.get("resnet18", weights=None), head, at="features", input_size=(3, 64, 64))
    assert model(X).shape == (2, 9)


def test_a_head_that_does_not_fit_is_refused_with_both_shapes_and_nothing_changes():
    model = zoo.get("resnet18", weights=None)
    with pytest.raises(errors.HeadMismatch, match=r"takes \[N, 512, 7, 7\](.|\n)*takes \[N, 100, ...\]"):
        zoo.swap_head(model, nn.Conv2d(100, 9, 1), at="features")
    assert model.eval()(X).shape == (2, 1000)


def test_auxiliary_heads_are_refused_with_the_way_out():
    with pytest.raises(errors.NotSupported, match="aux_logits"):
        zoo.swap_head(zoo.get("googlenet", weights=None), 9, at="features")


def test_features_that_are_no_tensor_are_refused_with_the_reason():
    model = zoo.get("deeplabv3_mobilenet_v3_large", weights=None, options={"weights_backbone": None})
    with pytest.raises(errors.NotSupported, match="dict"):
        zoo.swap_head(model, 9, at="features")


def test_another_word_is_refused():
    with pytest.raises(errors.UsageError, match="'features'"):
        zoo.swap_head(zoo.get("resnet18", weights=None), 9, at="feature")


def test_the_head_can_be_swapped_again_and_stays_on_the_map():
    model, head = model_and_head()
    zoo.swap_head(zoo.swap_head(model, head, at="features"), 4)
    assert model(X).shape == (2, 4, 2, 2)


def test_backbone_and_head_can_be_taken_apart():
    model, head = model_and_head()
    zoo.swap_head(model, head, at="features")
    backbone, own = zoo.split(model)
    assert own is head
    assert torch.equal(own(backbone(X)), model(X))


def test_it_compiles_without_a_graph_break_and_exports():
    torch._dynamo.reset()
    model, head = model_and_head()
    zoo.swap_head(model, head, at="features")
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(X), model(X))
    torch.testing.assert_close(torch.export.export(model, (X,)).module()(X), model(X))


def test_a_model_that_runs_compiled_already_takes_the_new_head():
    torch._dynamo.reset()
    model, head = model_and_head()
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    zoo.swap_head(compiled, head, at="features")
    assert torch.equal(compiled(X), model(X))


def test_it_works_on_an_adopted_model():
    import torchvision

    model = zoo.adopt(torchvision.models.resnet18().eval(), family="torchvision")
    assert zoo.swap_head(model, 9, at="features")(X).shape == (2, 9, 2, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_works_on_the_gpu(dtype):
    model = zoo.get("resnet18", weights=None, device="cuda", dtype=dtype)
    zoo.swap_head(model, 9, at="features")
    assert model(X.to("cuda", dtype)).shape == (2, 9, 2, 2)
