"""The language that names parts of a model, beside the loops that people write for the same."""

from __future__ import annotations

import copy
from itertools import islice

import pytest
import torch
from torch import nn
from torchvision.models.detection import keypointrcnn_resnet50_fpn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.metadata import Metadata, attach
from zoo_core.surgery.receipt import Receipt
from zoo_core.surgery.select import select
from zoo_core.tracing.adopt import adopt


@pytest.fixture
def model():
    return zoo.get("resnet18", weights=None, num_classes=9)


@pytest.fixture
def deep():
    """The deep head of so many tutorials: two hidden layers on ResNet-18."""
    return zoo.get("resnet18", weights=None, head=zoo.mlp_head(9, hidden=(256, 128), batch_norm=True, dropout=0.2))


@pytest.fixture(scope="module")
def keypoint_rcnn():
    """A detector without values: what trains is a question of names."""
    with torch.device("meta"):
        return adopt(keypointrcnn_resnet50_fpn(weights_backbone=None, num_keypoints=5), family="torchvision")


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def by_hand(model, frozen):
    """What a loop over parameters would leave trainable, in a copy of the model."""
    twin = copy.deepcopy(model)
    for parameter in frozen(twin):
        parameter.requires_grad = False
    return trainable(twin)


@pytest.mark.parametrize("k", [1, 2, 5, 6, 7, 9])
def test_the_first_k_children_are_those_of_the_loop_over_children(model, k):
    expected = by_hand(model, lambda m: [p for child in islice(m.children(), k) for p in child.parameters()])
    assert trainable(zoo.freeze(model, f"[:{k}]")) == expected


def test_children_can_be_counted_from_the_end_and_inside_a_module(model):
    expected = by_hand(model, lambda m: [p for block in list(m.layer4.children())[-1:] for p in block.parameters()])
    assert trainable(zoo.freeze(model, "layer4[-1:]")) == expected


def test_a_stage_of_several_modules_has_those_for_children():
    model = zoo.get("mobilenet_v2", weights=None)
    stage = zoo.anatomy(model).stages[-1]
    assert len(stage.modules) > 1
    expected = {name for name, _ in model.named_parameters() if name.startswith(f"{stage.modules[-1]}.")}
    zoo.unfreeze(zoo.freeze(model, "all"), f"{stage.name}[-1:]")
    assert trainable(model) == expected


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_last_k_layers_of_a_deep_head_train(deep, k):
    layers = [name for name, layer in deep.fc.named_children() if any(True for _ in layer.parameters())]
    kept = tuple(f"fc.{name}." for name in layers[-k:])
    zoo.unfreeze(zoo.freeze(deep, "all"), "head", last=k)
    assert trainable(deep) == {name for name, _ in deep.named_parameters() if name.startswith(kept)}


def test_norms_of_the_last_layers_follow_train_again(deep):
    zoo.unfreeze(zoo.freeze(deep, "all"), "fc", last=2).train()
    batch_norms = [layer for layer in deep.fc if isinstance(layer, nn.BatchNorm1d)]
    assert [layer.training for layer in batch_norms] == [False, True]


def test_the_first_layers_of_the_whole_model_are_counted_from_the_input(model):
    zoo.freeze(model, first=3)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight"}


def test_get_takes_the_same_words(model):
    other = zoo.get("resnet18", weights=None, num_classes=9, freeze={"what": "all", "first": 3})
    assert trainable(other) == trainable(zoo.freeze(model, first=3))


def test_a_keypoint_detector_trains_its_pyramid_and_the_end_of_its_keypoint_head(keypoint_rcnn):
    twin = copy.deepcopy(keypoint_rcnn)
    for parameter in twin.parameters():
        parameter.requires_grad = False
    for parameter in twin.backbone.fpn.parameters():
        parameter.requires_grad = True
    for layer in list(twin.roi_heads.keypoint_head.children())[-4:]:  # two convolutions and their ReLUs
        for parameter in layer.parameters():
            parameter.requires_grad = True
    for parameter in twin.roi_heads.keypoint_predictor.parameters():
        parameter.requires_grad = True

    ours = zoo.freeze(copy.deepcopy(keypoint_rcnn), "all")
    zoo.unfreeze(ours, "backbone.fpn", "roi_heads.keypoint_predictor")
    zoo.unfreeze(ours, "roi_heads.keypoint_head", last=2)
    assert trainable(ours) == trainable(twin)

    by_slice = zoo.freeze(copy.deepcopy(keypoint_rcnn), "all")
    zoo.unfreeze(by_slice, "backbone.fpn.*", "roi_heads.keypoint_head[-4:]", "roi_heads.keypoint_predictor.*")
    assert trainable(by_slice) == trainable(twin)


def test_the_word_backbone_wins_over_a_module_of_that_name(keypoint_rcnn):
    names = select(keypoint_rcnn, ["backbone"])
    assert "rpn.head.cls_logits.weight" in names
    assert "rpn.head.cls_logits.weight" not in select(keypoint_rcnn, ["backbone.*"])


@pytest.mark.parametrize("wrong", [0, -1, 7, True, "2", 1.0])
def test_a_number_of_layers_that_cannot_be_says_what_can(deep, wrong):
    with pytest.raises(errors.UsageError, match=r"last cannot be(.|\n)*a number from 1 to 5"):
        zoo.freeze(deep, "fc", last=wrong)


def test_first_and_last_together_are_refused(deep):
    with pytest.raises(errors.UsageError, match="first and last both"):
        zoo.freeze(deep, "fc", first=1, last=1)


@pytest.mark.parametrize("empty", ["[3:4]", "[99:]", "layer1[5:]", "relu"])
def test_naming_what_holds_no_tensors_is_refused(model, empty):
    with pytest.raises(errors.UnknownPart, match="holds no tensors"):
        zoo.freeze(model, empty)
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_a_slice_of_a_module_that_does_not_exist_names_the_closest(model):
    with pytest.raises(errors.UnknownPart, match="did you mean 'layer4'"):
        zoo.freeze(model, "layer44[:1]")


def test_a_model_without_a_stem_says_so():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    attach(model, Metadata(zoo.Anatomy(heads=(zoo.Head("1", in_features=4, num_classes=2),)), Receipt("mlp")))
    with pytest.raises(errors.UnknownPart, match="'stem' of this Sequential holds no tensors"):
        zoo.freeze(model, "stem")


def test_nothing_comes_before_the_input(model):
    with pytest.raises(errors.UsageError, match="nothing comes before 'conv1'"):
        zoo.freeze(model, until="conv1")


def test_no_stages_are_the_stem_even_where_it_lies_in_the_first_stage():
    model = zoo.freeze(zoo.get("mobilenet_v2", weights=None), stages=0)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"features.0.0.weight"}


def test_parts_are_found_inside_torch_compile(model):
    zoo.freeze(torch.compile(model, backend="eager"), "[:5]")
    assert not model.layer1[0].conv1.weight.requires_grad
    assert model.layer2[0].conv1.weight.requires_grad


def test_a_list_of_names_is_as_good_as_the_names(model):
    assert select(model, [["layer1", "layer2"]]) == select(model, ["layer1", "layer2"])


def test_a_stage_that_branches_took_is_named_with_its_copies(model):
    zoo.branch(model, at="layer4", heads={"colour": 3, "shape": 5})
    with pytest.raises(errors.UnknownPart, match=r"own stages from 'layer4' on(.|\n)*'fc\.colour\.body\.layer4' or"):
        select(model, ["layer4"])


def test_until_a_stage_that_branches_took_means_the_trunk_before_it(model):
    zoo.branch(model, at="layer4", heads={"colour": 3, "shape": 5})
    assert select(model, until="layer4") == select(model, ["backbone"])


def test_a_stage_in_a_branch_is_frozen_by_its_path_there(model):
    zoo.branch(model, at="layer4", heads={"colour": 3, "shape": 5})
    zoo.freeze(model, "fc.colour.body.layer4")
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("fc.colour.body.layer4.") for name in trains)
    assert any(name.startswith("fc.shape.body.layer4.") for name in trains)


@pytest.mark.parametrize("wrong", [5, ["layer1", 5], None])
def test_a_part_that_is_no_text_is_refused(model, wrong):
    with pytest.raises(errors.UsageError, match="a part cannot be"):
        zoo.freeze(model, wrong)


def test_until_has_to_be_a_name(model):
    with pytest.raises(errors.UsageError, match="until cannot be 3"):
        zoo.freeze(model, until=3)


def test_until_a_module_without_tensors_goes_by_the_order_of_registration(model):
    assert select(model, until="avgpool") == select(model, ["backbone"])


def test_a_part_without_tensors_is_not_suggested_for_itself(model):
    with pytest.raises(errors.UnknownPart, match="holds no tensors") as caught:
        zoo.freeze(model, "avgpool")
    assert "did you mean 'avgpool'" not in str(caught.value)
