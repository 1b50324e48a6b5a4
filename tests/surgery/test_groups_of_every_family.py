"""Freezing and parameter groups in every model of every installed family; one of each kind unless run with -m full."""

from __future__ import annotations

import pytest
import torch

import zoo_core as zoo

USUAL = {
    "torchvision/convnext_tiny",
    "torchvision/densenet121",
    "torchvision/googlenet",
    "torchvision/keypointrcnn_resnet50_fpn",
    "torchvision/mobilenet_v3_small",
    "torchvision/squeezenet1_1",
    "torchvision/swin_v2_t",
    "torchvision/vit_b_32",
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/nasnetamobile",
    "pretrainedmodels/vgg11",
    "tiny/glyphnet",
}

every_model = pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.full) for name in zoo.list()]
)


def built(name):
    """The model without values where its library can build one so; what trains is a question of names."""
    try:
        with torch.device("meta"):
            return zoo.get(name, weights=None)
    except NotImplementedError:
        return zoo.get(name, weights=None)


def ids(parameters):
    return sorted(map(id, parameters))


@every_model
def test_groups_hold_every_trainable_parameter_once(name):
    model = zoo.freeze(built(name), "stem")
    groups = zoo.param_groups(model, lr=0.1, bias_lr_scale=2, weight_decay=0.01)
    assert ids(p for group in groups for p in group["params"]) == ids(p for p in model.parameters() if p.requires_grad)
    assert all(p.dim() > 1 for group in groups if group["weight_decay"] for p in group["params"])


@every_model
def test_rates_rise_with_depth_and_every_stage_has_its_own(name):
    model = built(name)
    stages = [stage.name for stage in zoo.anatomy(model).stages]
    rate = {}
    for group in zoo.param_groups(model, lr=1.0, layer_decay=0.5):
        rate[group["name"].partition(",")[0]] = group["lr"]
    with_parameters = [stage for stage in stages if stage in rate]
    assert with_parameters
    assert [rate[stage] for stage in with_parameters] == [
        0.5 ** (len(stages) - stages.index(s)) for s in with_parameters
    ]


@every_model
def test_what_is_frozen_before_a_stage_is_what_layer_decay_puts_before_it(name):
    model = built(name)
    last = zoo.anatomy(model).stages[-1].name
    groups = zoo.param_groups(zoo.freeze(model, until=last), lr=1.0, layer_decay=0.5)
    assert {group["name"].partition(",")[0] for group in groups} <= {last, "neck", "head"}
