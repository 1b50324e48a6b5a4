"""The blocks of a CoaT have two of their modules in common: what is one tensor under several names stays one."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from support.timm_files import fresh

import zoo_core as zoo

NAME = "coat_lite_tiny"


def shared(model):
    """The names of each parameter that has several."""
    names = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].add(name)
    return {frozenset(each) for each in names.values() if len(each) > 1}


def trainable(model):
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if parameter.requires_grad}


@pytest.fixture
def model():
    return zoo.get(f"timm/{NAME}", weights=None, seed=0).eval()


def test_a_swap_changes_the_head_alone_and_parts_nothing(model):
    before, names = {name: tensor.clone() for name, tensor in model.state_dict().items()}, shared(model)
    after = zoo.swap_head(model, 9).state_dict()
    assert {"cpe1.proj.weight", "serial_blocks1.0.cpe.proj.weight", "serial_blocks1.1.cpe.proj.weight"} in names
    assert shared(model) == names
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"head.weight", "head.bias"}


def test_a_frozen_backbone_is_frozen_under_every_name(model):
    assert trainable(zoo.freeze(model, "backbone")) == {"head.weight", "head.bias"}
    zoo.unfreeze(model)
    assert trainable(model) == {name for name, _ in model.named_parameters(remove_duplicate=False)}


def test_freezing_by_stage_takes_each_parameter_with_all_its_names(model):
    found = trainable(zoo.freeze(model, until="serial3"))
    assert {"cpe3.proj.weight", "serial_blocks3.0.cpe.proj.weight"} <= found
    assert not {name for name in found if name.startswith(("cpe2", "serial_blocks2", "crpe1", "serial_blocks1"))}
    assert all(each <= found or not each & found for each in shared(model))


def test_the_groups_of_an_optimizer_hold_each_parameter_once(model):
    groups = zoo.param_groups(model, lr=1e-3, head_lr=1e-2)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(id(parameter) for parameter in model.parameters())


def test_a_saved_model_comes_back_with_the_same_parameters_in_common(model, tmp_path):
    zoo.save(zoo.freeze(zoo.swap_head(model, 9, seed=0), "backbone"), tmp_path / "saved")
    again = zoo.load(tmp_path / "saved").eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    assert shared(again) == shared(model)
    assert trainable(again) == trainable(model)


def test_a_file_that_has_a_tensor_under_each_name_loads_into_the_one(hub):
    state = fresh(NAME).state_dict()
    hub(f"{NAME}.in1k", {name: tensor.clone() for name, tensor in state.items()})
    model = zoo.get(f"timm/{NAME}")
    assert zoo.receipt(model).tensors == dict.fromkeys(state, "loaded")
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])] == []
    assert shared(model) == shared(fresh(NAME))
