"""Whether what is frozen stayed where it was."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.fine_tuning.drift import drift


@pytest.fixture
def model():
    return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0)


def train(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(model.train()(torch.randn(8, 1, 32, 32)), torch.arange(8)).backward()
    optimizer.step()


def test_a_frozen_backbone_does_not_drift(model):
    zoo.freeze(model)
    before = copy.deepcopy(model.state_dict())
    train(model)
    assert drift(model, before) == {}


def test_the_blog_recipe_drifts_in_its_norms_and_ours_does_not(model):
    recipe = copy.deepcopy(model)
    for name, parameter in recipe.named_parameters():
        parameter.requires_grad = name.startswith("fc.")
    start = copy.deepcopy(model.state_dict())
    train(recipe)
    assert not torch.equal(recipe.layer1.bn1.running_mean, start["layer1.bn1.running_mean"])
    train(zoo.freeze(model))
    assert drift(model, start) == {}


def test_a_norm_put_back_into_train_mode_by_hand_is_found(model):
    before = copy.deepcopy(zoo.freeze(model).state_dict())
    model.layer2.bn1.training = True
    model(torch.randn(8, 1, 32, 32))
    moved = drift(model, before)
    assert set(moved) == {f"layer2.bn1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert moved["layer2.bn1.num_batches_tracked"] == 1.0


def converted(model):
    """The model with norms of its owner's, who copies the values of those that were there."""
    for path in [path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]:
        new = nn.BatchNorm2d(model.get_submodule(path).num_features).requires_grad_(requires_grad=False)
        new.load_state_dict(model.get_submodule(path).state_dict())
        model.set_submodule(path, new)
    return model


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm])
def test_synchronized_norms_are_held_in_the_place_of_held_ones(convert):
    name = "timm/test_efficientnet" if convert is timm.layers.convert_sync_batchnorm else "tiny/glyphnet"
    model = convert(
        zoo.freeze(zoo.get(name, weights=None), until=zoo.anatomy(zoo.get(name, weights=None)).stages[-1].name)
    )
    before = copy.deepcopy(model.state_dict())
    norms = [module for module in model.train().modules() if isinstance(module, nn.SyncBatchNorm)]
    assert {False, True} == {norm.training for norm in norms}
    assert drift(model, before) == {}
    zoo.unfreeze(model)
    assert all(norm.training for norm in norms)


def test_norms_with_copies_of_frozen_parameters_are_frozen_in_the_place_of_held_ones(model):
    timm.layers.convert_splitbn_model(zoo.freeze(model, until="layer3"))
    assert {name.partition(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"layer3", "fc"}
    before = copy.deepcopy(model.state_dict())
    train(model)
    assert drift(model, before) == {}
    zoo.unfreeze(model)
    assert all(each.requires_grad for each in model.parameters())
    assert all(module.training for module in model.modules())


def test_converting_norms_that_another_library_has_unfrozen_leaves_them_so(model):
    zoo.freeze(model).train().requires_grad_(True)
    assert all(module.training for module in timm.layers.convert_splitbn_model(model).train().modules())


def test_converting_frozen_norms_warns_before_anything_moved(model):
    before = copy.deepcopy(zoo.freeze(model).state_dict())
    with pytest.warns(zoo.ZooWarning, match=r"are no longer held in eval mode, such as 'layer1\.bn1'") as caught:
        assert drift(converted(model), before) == {}
    assert caught[0].filename == __file__


def test_statistics_that_the_conversion_let_loose_are_compared(model):
    before = copy.deepcopy(zoo.freeze(model).state_dict())
    with torch.no_grad():
        converted(model).layer1.bn1.running_mean += 0.5
    with pytest.warns(zoo.ZooWarning):
        assert drift(model, before) == {"layer1.bn1.running_mean": pytest.approx(0.5)}


def test_freezing_again_holds_the_converted_norms(model):
    zoo.freeze(converted(zoo.freeze(model)))
    before = copy.deepcopy(model.state_dict())
    assert drift(model.train(), before) == {}
    assert not model.layer1.bn1.training


def test_norms_of_a_new_head_are_not_taken_for_frozen_ones(model):
    zoo.freeze(zoo.swap_head(model, zoo.mlp_head(9, hidden=(8,), batch_norm=True)), "all")
    zoo.swap_head(model, zoo.mlp_head(9, hidden=(8,), batch_norm=True))
    assert drift(model, copy.deepcopy(model.state_dict())) == {}


def test_norms_in_branches_stay_known_as_frozen(model):
    zoo.branch(zoo.freeze(model), at="layer3", heads={"a": 2, "b": 3})
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(zoo.ZooWarning, match="no longer held"):
        drift(converted(model), before)


def test_a_frozen_parameter_that_was_overwritten_is_measured(model):
    before = copy.deepcopy(zoo.freeze(model).state_dict())
    with torch.no_grad():
        model.layer1.conv1.weight[0, 0, 0, 0] += 0.5
    assert drift(model, before) == {"layer1.conv1.weight": pytest.approx(0.5)}


def test_nan_and_another_shape_count_as_infinite(model):
    before = copy.deepcopy(zoo.freeze(model).state_dict())
    before["layer1.conv1.weight"] = torch.zeros(1)
    with torch.no_grad():
        model.layer1.conv2.weight.fill_(float("nan"))
    assert drift(model, before) == {"layer1.conv1.weight": float("inf"), "layer1.conv2.weight": float("inf")}


def test_what_trains_may_move(model):
    zoo.freeze(model, until="layer3")
    before = copy.deepcopy(model.state_dict())
    train(model)
    assert not torch.equal(before["layer3.conv1.weight"], model.layer3.conv1.weight)
    assert drift(torch.compile(model, backend="eager"), before) == {}


def test_statistics_that_were_let_go_are_not_compared(model):
    before = copy.deepcopy(zoo.freeze(model, norm="train").state_dict())
    train(model)
    assert drift(model, before) == {}


def test_a_state_dict_that_is_not_a_copy_is_refused(model):
    with pytest.raises(errors.UsageError, match="can never differ"):
        drift(model, zoo.freeze(model).state_dict())


def test_asking_before_freezing_says_to_freeze(model):
    with pytest.raises(errors.UsageError, match=r"0 frozen tensors(.|\n)*zoo\.freeze"):
        drift(model, model.state_dict())


def test_a_state_dict_of_something_else_is_refused(model):
    with pytest.raises(errors.UsageError, match="none of which"):
        drift(zoo.freeze(model), {"other.weight": torch.zeros(1)})


def test_what_is_no_state_dict_is_refused():
    with pytest.raises(zoo.errors.UsageError, match="a NoneType is no state dict"):
        zoo.drift(zoo.get("tiny/glyphnet", weights=None, freeze="backbone"), None)
