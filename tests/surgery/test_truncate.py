"""Cutting a network and using the front."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.architectures import every_architecture, model_under_test
from torch import nn

import zoo_core as zoo
from zoo_core import errors

X = torch.randn(2, 3, 64, 64)


def resnet18():
    return zoo.get("resnet18", weights=None, seed=0).eval()


def test_it_equals_the_recipe_by_hand():
    model = zoo.freeze(resnet18(), stages=1)
    by_hand = nn.Sequential(*list(model.children())[:-3])
    front = zoo.truncate(model, after="layer3")
    assert torch.equal(front(X), by_hand(X))
    assert [p.requires_grad for p in front.parameters()] == [p.requires_grad for p in by_hand.parameters()]


def test_front_and_model_share_their_parameters_and_the_model_stays_whole():
    model = resnet18()
    before = model(X)
    front = zoo.truncate(model, after="layer3")
    assert {id(p) for p in front.parameters()} < {id(p) for p in model.parameters()}
    assert torch.equal(model(X), before)
    assert zoo.anatomy(model).main.path == "fc"


def test_the_class_and_the_keys_stay_as_far_as_it_goes():
    model = resnet18()
    front = zoo.truncate(model, after="layer3")
    assert isinstance(front, type(model))
    assert list(front.state_dict()) == [name for name in model.state_dict() if not name.startswith(("layer4.", "fc."))]
    assert list(zoo.receipt(front).tensors) == list(front.state_dict())


@every_architecture
def test_on_any_family_the_front_gives_the_feature_map_of_the_stage(name):
    model, x = model_under_test(name)
    stages = zoo.anatomy(model).stages
    if not stages:
        pytest.skip("no stages")
    with torch.no_grad():
        expected = zoo.features(model, x)
        for stage in (stages[0], stages[len(stages) // 2], stages[-1]):
            if not isinstance(expected[stage.name], torch.Tensor):
                continue
            front = zoo.truncate(model, after=stage.name)
            assert torch.equal(front(x), expected[stage.name])
            assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(front)))(x), expected[stage.name])
            assert len(front.state_dict()) < len(model.state_dict())


def test_the_front_can_be_frozen_and_cut_again():
    front = zoo.freeze(zoo.truncate(resnet18(), after="layer3"), "layer1")
    assert not front.layer1[0].conv1.weight.requires_grad
    assert zoo.truncate(front, after="layer1")(X).shape == (2, 64, 16, 16)


def test_the_front_has_no_head_and_says_why():
    with pytest.raises(errors.NotSupported, match="cut after 'layer3'"):
        zoo.swap_head(zoo.truncate(resnet18(), after="layer3"), 9)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_it_compiles_without_a_graph_break(name):
    torch._dynamo.reset()
    model, x = model_under_test(f"torchvision/{name}")
    front = zoo.truncate(model, after=zoo.anatomy(model).stages[1].name)
    assert torch.equal(torch.compile(front, fullgraph=True, backend="eager")(x), front(x))


def test_a_stage_that_does_not_exist_lists_the_stages():
    with pytest.raises(errors.UnknownPart, match="layer1, layer2, layer3, layer4"):
        zoo.truncate(resnet18(), after="layer0")


def test_something_else_than_a_name_is_refused():
    with pytest.raises(errors.UsageError, match="name of a stage"):
        zoo.truncate(resnet18(), after=3)


@pytest.mark.gpu
def test_it_works_on_the_gpu():
    model = zoo.get("resnet18", weights=None, device="cuda")
    assert zoo.truncate(model, after="layer3")(X.cuda()).shape == (2, 256, 4, 4)
