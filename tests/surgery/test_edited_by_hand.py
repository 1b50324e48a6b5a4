"""Models that their owner, or another library, has changed since zoo last looked: right, or a ZooError that says so."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.metadata import knowledge_of

X = torch.randn(2, 3, 64, 64)


def trainable(model):
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def build(name, **arguments):
    return zoo.get(name, weights=None, seed=0, **arguments).eval()


OWN_HEADS = {
    "torchvision/resnet18": "fc",
    "torchvision/mobilenet_v3_small": "classifier",
    "torchvision/shufflenet_v2_x0_5": "fc",
    "torchvision/regnet_y_400mf": "fc",
    "torchvision/squeezenet1_1": "classifier.1",
    "timm/test_resnet": "fc",
    "timm/test_vit": "head",
    "timm/test_efficientnet": "classifier",
    "tiny/glyphnet": "fc",
}


def own_head(model, path):
    layers = [each for each in model.get_submodule(path).modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    on_map = isinstance(layers[0], nn.Conv2d)
    model.set_submodule(path, nn.Conv2d(layers[0].in_channels, 9, 1) if on_map else nn.Linear(layers[0].in_features, 9))
    return model


@pytest.mark.parametrize("name", OWN_HEADS)
def test_freezing_leaves_a_classifier_put_in_by_hand_trainable(name):
    path = OWN_HEADS[name]
    model = zoo.freeze(own_head(build(name), path))
    assert trainable(model) == [f"{path}.bias", f"{path}.weight"]
    assert zoo.anatomy(model).main.num_classes == 9
    assert zoo.receipt(model).notes == {f"{path}.{each}": "changed by hand" for each in ("bias", "weight")}


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_resnet"])
def test_a_head_put_in_by_hand_is_split_and_swapped_as_one_of_ours(name):
    model = own_head(build(name), OWN_HEADS[name])
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
    assert zoo.swap_head(model, 5)(X).shape == (2, 5)


def test_a_new_classifier_of_several_layers_is_the_head_as_a_whole():
    model = build("torchvision/mobilenet_v3_small")
    model.classifier = nn.Sequential(nn.Linear(576, 32), nn.ReLU(), nn.Linear(32, 9))
    zoo.freeze(model)
    assert trainable(model) == ["classifier.0.bias", "classifier.0.weight", "classifier.2.bias", "classifier.2.weight"]


def test_a_head_put_in_by_hand_is_saved_as_if_swap_head_had_put_it_there(tmp_path):
    model = own_head(build("torchvision/resnet18"), "fc")
    again = zoo.load(zoo.save(model, tmp_path / "save"))
    assert torch.equal(again(X), model(X))


def test_class_names_of_the_old_head_are_gone_with_it():
    model = zoo.get("tiny/glyphnet")
    model.fc = nn.Linear(64, 9)
    assert zoo.class_names(model) == ()


def test_class_names_stay_where_an_activation_comes_after_the_old_head():
    model = zoo.get("tiny/glyphnet")
    names = zoo.class_names(model)
    zoo.swap_head(model, nn.Sequential(model.fc, nn.Softmax(dim=1)))
    assert zoo.class_names(model) == names


def test_a_part_that_is_gone_is_an_error_whose_advice_works():
    model = build("torchvision/squeezenet1_1")
    model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 9))
    with pytest.raises(zoo.ZooError, match="what took its place is unclear"):
        zoo.freeze(model)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 9))
    swapped = zoo.swap_head(build("torchvision/squeezenet1_1"), head, at="features")
    assert swapped(X).shape == (2, 9)
    assert trainable(zoo.freeze(swapped)) == ["classifier.1.2.bias", "classifier.1.2.weight"]


def test_timm_resets_the_classifier():
    model = build("timm/test_resnet")
    model.reset_classifier(7)
    assert zoo.anatomy(zoo.freeze(model)).main.num_classes == 7
    assert trainable(model) == ["fc.bias", "fc.weight"]
    model.reset_classifier(0)
    assert zoo.swap_head(model, 3)(X).shape == (2, 3)


def test_timm_fuses_the_branches_of_a_model():
    from timm.utils.model import reparameterize_model

    model = reparameterize_model(build("timm/repvgg_a0", num_classes=9))
    assert zoo.swap_head(copy.deepcopy(model), 5)(X).shape == (2, 5)
    assert zoo.adapt_stem(copy.deepcopy(model), 4)(torch.randn(2, 4, 64, 64)).shape == (2, 9)
    assert trainable(zoo.freeze(model)) == ["head.fc.bias", "head.fc.weight"]


def test_narrower_layers_are_measured_again():
    model = build("tiny/glyphnet", num_classes=9)
    narrow = nn.BatchNorm2d(32)
    block = model.layer3
    block.conv2 = nn.Conv2d(64, 32, 3, padding=1, bias=False)
    block.bn2, block.shortcut = narrow, nn.Sequential(nn.Conv2d(32, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
    model.fc = nn.Linear(32, 9)
    assert zoo.anatomy(model).main.in_features == 32
    assert zoo.anatomy(model).stages[-1].channels == 32


def test_a_branched_model_with_a_head_changed_by_hand_keeps_its_branches():
    model = zoo.branch(build("tiny/glyphnet"), at="layer3", heads={"a": 2, "b": 3})
    model.fc.a.body.fc = nn.Linear(64, 4)
    zoo.freeze(model)
    assert "fc.a.body.fc.weight" in trainable(model)
    assert "stem.0.weight" not in trainable(model)


def test_what_a_verb_does_itself_is_not_taken_for_an_edit_by_hand():
    model = build("tiny/glyphnet")
    for verb in (lambda: zoo.swap_head(model, 9), lambda: zoo.adapt_stem(model, 3), lambda: zoo.freeze(model)):
        verb()
        assert not zoo.receipt(model).notes
    assert [edit.verb for edit in knowledge_of(model).edits] == ["swap_head", "adapt_stem"]


@pytest.mark.parametrize(
    ("name", "path", "width"),
    [
        ("mobilenet_v3_small", "classifier", 576),
        ("mnasnet0_5", "classifier", 1280),
        ("efficientnet_b0", "classifier", 1280),
    ],
)
def test_a_linear_layer_where_a_classifier_of_several_was_is_adopted(name, path, width):
    model = getattr(torchvision.models, name)().eval()
    model.set_submodule(path, nn.Linear(width, 5))
    zoo.adopt(model, family="torchvision", name=name)
    site = zoo.anatomy(model).main
    assert (site.path, site.in_features, site.num_classes) == (path, width, 5)
    x = torch.randn(1, 3, 64, 64)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(x)), model(x))
    assert zoo.swap_head(model, 3)(x).shape == (1, 3)


def test_a_changed_classifier_without_a_name_says_to_give_it():
    model = torchvision.models.mobilenet_v3_small()
    model.classifier = nn.Linear(576, 5)
    with pytest.raises(errors.AnatomyError, match=r'zoo.adopt\(model, family="torchvision", name=...\)'):
        zoo.adopt(model, family="torchvision")


def test_more_than_another_classifier_is_not_adopted():
    model = torchvision.models.mobilenet_v3_small()
    model.classifier = nn.Linear(576, 5)
    model.features[0] = nn.Conv2d(3, 16, 3, 2, 1)
    with pytest.raises(errors.AnatomyError):
        zoo.adopt(model, family="torchvision", name="mobilenet_v3_small")
