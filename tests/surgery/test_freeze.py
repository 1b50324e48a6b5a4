"""Freezing that holds, and can be undone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo_core as zoo
from zoo_core import errors


@pytest.fixture
def model():
    return zoo.get("resnet18", weights=None, num_classes=9)


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def step(model):
    model.train()
    model(torch.randn(4, 3, 32, 32)).sum().backward()


def test_by_default_only_the_head_trains(model):
    assert trainable(zoo.freeze(model)) == {"fc.weight", "fc.bias"}


def test_gradients_reach_only_the_head(model):
    step(zoo.freeze(model))
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "fc.weight",
        "fc.bias",
    }


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_step_after_freezing_moves_nothing_that_is_frozen(model, set_to_none):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    step(model)
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    step(model)
    zoo.freeze(model, "backbone")
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"fc.weight", "fc.bias"}


def test_frozen_norms_do_not_drift_after_train(model):
    zoo.freeze(model)
    before = statistics(model)
    step(model)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_norms_outside_what_is_frozen_go_on(model):
    zoo.freeze(model, until="layer4")
    before = statistics(model)
    step(model)
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)}
    assert moved
    assert all(name.startswith("layer4.") for name in moved)


def test_norm_train_lets_frozen_norms_follow(model):
    zoo.freeze(model, norm="train")
    before = statistics(model)
    step(model)
    assert not torch.equal(before["bn1.running_mean"], model.bn1.running_mean)


def test_norm_train_after_norm_eval_lets_go_of_them(model):
    zoo.freeze(zoo.freeze(model.train()), norm="train")
    assert model.bn1.training


def test_classes_and_keys_do_not_change(model):
    kinds, keys = [type(module) for module in model.modules()], list(model.state_dict())
    zoo.freeze(model)
    assert [type(module) for module in model.modules()] == kinds
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("how", "thawed"),
    [
        ({"until": "layer4"}, ("layer4.", "fc.")),
        ({"until": "layer4.1"}, ("layer4.1.", "fc.")),
        ({"stages": 3}, ("layer4.", "fc.")),
        ({"stages": 0}, ("layer1.", "layer2.", "layer3.", "layer4.", "fc.")),
    ],
)
def test_freezing_by_depth(model, how, thawed):
    assert trainable(zoo.freeze(model, **how)) == {
        name for name, _ in model.named_parameters() if name.startswith(thawed)
    }


@pytest.mark.parametrize(
    ("what", "frozen"),
    [
        (("stem",), ("conv1.",)),
        (("layer1",), ("layer1.",)),
        (("layer[12].*",), ("layer1.", "layer2.")),
        (("conv1", "bn1"), ("conv1.", "bn1.")),
        (("head",), ("fc.",)),
        (("fc.bias",), ("fc.bias",)),
        (("all",), ("",)),
    ],
)
def test_freezing_by_name(model, what, frozen):
    zoo.freeze(model, *what)
    assert trainable(model) == {name for name, _ in model.named_parameters() if not name.startswith(frozen)}


def test_unfreeze_undoes_it(model):
    everything = trainable(model)
    zoo.unfreeze(zoo.freeze(model.train()))
    assert trainable(model) == everything
    assert all(module.training for module in model.modules())
    assert all("train" not in vars(module) for module in model.modules())


def test_a_part_can_be_unfrozen(model):
    zoo.unfreeze(zoo.freeze(model), "layer4")
    assert trainable(model) == {name for name, _ in model.named_parameters() if name.startswith(("layer4.", "fc."))}


def test_unfrozen_norms_take_the_mode_of_the_model(model):
    zoo.unfreeze(zoo.freeze(model.eval()), "layer4")
    assert not model.layer4[0].bn1.training


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_twin_stays_frozen_on_its_own(model, twin):
    other = twin(zoo.freeze(model))
    zoo.unfreeze(model)
    assert not other.train().bn1.training
    assert model.train().bn1.training
    assert trainable(other) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d])
def test_norms_with_running_statistics_of_every_kind_are_held(model, kind):
    model.bn1 = kind(64, track_running_stats=True)
    zoo.freeze(model).train()
    assert not model.bn1.training


def test_a_norm_without_parameters_is_held_too(model):
    model.bn1 = nn.BatchNorm2d(64, affine=False)
    zoo.freeze(model).train()
    assert not model.bn1.training


def test_frozen_models_compile_without_a_graph_break(model):
    zoo.freeze(model).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2, 3, 32, 32)).shape == (2, 9)


def test_an_unknown_part_lists_the_stages_and_the_closest_name(model):
    with pytest.raises(errors.UnknownPart, match=r"layer1, layer2, layer3, layer4(.|\n)*did you mean 'layer4'"):
        zoo.freeze(model, until="layer44")


@pytest.mark.parametrize(
    "wrong", [{"stages": 5}, {"stages": -1}, {"stages": "2"}, {"norm": "off"}, {"untill": "layer4"}]
)
def test_an_impossible_argument_is_refused_and_nothing_is_frozen(model, wrong):
    everything = trainable(model)
    with pytest.raises(errors.UsageError):
        zoo.freeze(model, **wrong)
    assert trainable(model) == everything


PARTS = st.sampled_from(["backbone", "head", "stem", "layer1", "layer3", "layer4.1", "*.bn1.*", "all"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), PARTS), max_size=6))
def test_any_sequence_is_undone_by_unfreezing_everything(actions):
    model = SHARED.train()
    for do_freeze, part in actions:
        (zoo.freeze if do_freeze else zoo.unfreeze)(model, part)
    zoo.unfreeze(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training and "train" not in vars(module) for module in model.modules())


@settings(max_examples=25, deadline=None)
@given(st.sets(PARTS))
def test_the_order_of_freezing_does_not_matter(parts):
    model = SHARED
    outcomes = []
    for order in (sorted(parts), sorted(parts, reverse=True)):
        zoo.unfreeze(model)
        for part in order:
            zoo.freeze(model, part)
        outcomes.append(trainable(model))
    assert outcomes[0] == outcomes[1]


SHARED = zoo.get("resnet18", weights=None)
