"""How the forward of timm's models splits: bit for bit, on real numbers, whatever stands at the head."""

from __future__ import annotations

import pytest
import timm
import torch

import zoo_core as zoo
from zoo_core import errors

NINE = 9

OF_EVERY_WAY = (
    # one head: a layer at the end, one within a classifier, a convolution on the pooled map, an attention pool
    *("test_resnet", "test_vit", "caformer_s18", "efficientvit_m0", "dla46_c", "resnetv2_18", "resnet50_clip"),
    # two, which are given the same vector, vectors of their own, or a token each
    *("swiftformer_xs", "levit_128s", "iformer_m_distilled", "pit_ti_distilled_224"),
    # several in other ways
    *("volo_d1_224", "crossvit_9_240", "efficientvim_m1", "efficientvim_m1_dist"),
)

COMBINED = ("swiftformer_xs", "levit_128s", "pit_ti_distilled_224", "crossvit_9_240", "efficientvim_m1_dist")


def build(name, **options):
    """A model with random heads: some are zeros when they are new, and then anything would be equal."""
    torch.manual_seed(0)
    model = zoo.adopt(timm.create_model(name, **options).eval(), family="timm")
    for site in zoo.anatomy(model).heads:
        for parameter in model.get_submodule(site.path).parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def image(model):
    return torch.randn(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))


def check_equal(model):
    backbone, head = zoo.split(model)
    x = image(model)
    with torch.no_grad():
        scores = model(x)
        assert torch.equal(head(backbone.pool(backbone.features(x))), scores)
    assert scores.std() > 0
    parts = [{id(parameter) for parameter in part.parameters()} for part in (backbone, head)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("name", OF_EVERY_WAY)
def test_head_after_backbone_equals_the_model_bit_for_bit(name):
    check_equal(build(name, num_classes=NINE))


@pytest.mark.parametrize("name", COMBINED)
def test_it_does_without_any_classes_and_with_those_that_come_later(name):
    model = build(name, num_classes=0)
    check_equal(model)
    zoo.swap_head(model, NINE, seed=0)
    check_equal(model)
    with torch.no_grad():
        assert model(image(model)).shape == (2, NINE)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "resnetv2_18"])
def test_it_does_without_pooling(name):
    options = {} if name == "resnetv2_18" else {"num_classes": 0}
    check_equal(build(name, global_pool="", **options))


def test_a_distilled_model_that_trains_with_its_teacher_keeps_both_heads():
    model = build("deit_tiny_distilled_patch16_224", num_classes=NINE)
    zoo.swap_head(model, 5)
    model.set_distilled_training(True)
    assert [scores.shape for scores in model.train()(image(model))] == [(2, 5), (2, 5)]


def test_the_weights_of_weighed_heads_stay_and_are_frozen_with_the_backbone():
    model = build("efficientvim_m1", num_classes=NINE)
    torch.nn.init.normal_(model.weights)
    before = model.weights.clone()
    zoo.freeze(zoo.swap_head(model, 5), "backbone")
    assert torch.equal(model.weights, before)
    assert not model.weights.requires_grad


def test_an_auxiliary_head_is_swapped_too_and_such_a_model_is_not_split():
    model = build("inception_v3", num_classes=NINE, aux_logits=True)
    zoo.swap_head(model, 5)
    assert [(site.path, site.role) for site in zoo.anatomy(model).heads] == [("fc", "main"), ("AuxLogits.fc", "aux")]
    assert [scores.shape for scores in model.train()(image(model))] == [(2, 5), (2, 5)]
    with pytest.raises(errors.NotSupported, match="returns a pair"):
        zoo.split(model)


def test_maps_instead_of_scores_are_no_place_for_a_head():
    model = build("efficientvim_m1", num_classes=0, global_pool="")
    with pytest.raises(errors.NotSupported, match="never calls its heads"):
        zoo.swap_head(model, NINE)


def test_a_head_on_the_features_leaves_no_layer_behind_that_never_runs():
    model = build("mobilenetv3_small_050")
    zoo.swap_head(model, NINE, at="features")
    model(image(model)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("options", [{"features_only": True}], ids=["features_only"])
def test_what_is_no_classifier_of_timm_is_refused(options):
    with pytest.raises(errors.AnatomyError, match="features_only"):
        zoo.adopt(timm.create_model("test_resnet", **options), family="timm")


def test_the_option_that_builds_a_naflexvit_is_read_from_the_model():
    model = zoo.get("timm/test_vit", weights=None, options={"use_naflex": True}).eval()
    assert (type(model).__name__, zoo.anatomy(model).stem) == ("NaFlexVit", ("embeds.proj",))
    zoo.swap_head(model, NINE)
    backbone, head = zoo.split(model)
    with torch.no_grad():
        scores = model(image(model))
        assert scores.shape == (2, NINE)
        assert torch.equal(head(backbone(image(model))), scores)
