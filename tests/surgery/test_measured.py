"""Stages whose channels and strides are measured: true, without a trace in the model, and with maps or an error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import AnatomyError, measure_stages


def net(*more):
    """Strides 2 and 8, and a border that makes the second map a step larger than its stride says."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Sequential(nn.Conv2d(4, 6, 3, 4, 4), nn.BatchNorm2d(6)), *more)


STAGES = {"first": ["0"], "second": ["1.0", "1.1"]}


def shape_of(stages):
    return [(stage.name, stage.modules, stage.channels, stage.stride) for stage in stages]


def test_no_border_counts():
    assert shape_of(measure_stages(net(), STAGES)) == [("first", ("0",), 4, 2), ("second", ("1.0", "1.1"), 6, 8)]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_what_is_measured_is_what_torchvisions_anatomy_says(name):
    model = zoo.get(f"torchvision/{name}", weights=None)
    known = zoo.anatomy(model).stages
    measured = measure_stages(model, {stage.name: stage.modules for stage in known})
    assert shape_of(measured) == shape_of(known)


def test_the_model_is_left_as_it_was():
    model = net().train()
    model[1][1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_stages(model, STAGES)
    assert [model.training, model[1][0].training, model[1][1].training] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_head_that_takes_one_size_only_is_no_obstacle():
    model = net(nn.Flatten(), nn.Linear(7, 2))
    assert measure_stages(model, STAGES)[1].stride == 8


def test_a_model_of_one_size_is_measured_on_that_size():
    class Strict(nn.Sequential):
        def forward(self, x):
            if x.shape[-1] != 48:
                raise ValueError("48 pixels, please")
            return super().forward(x)

    assert [stage.stride for stage in measure_stages(Strict(*net()[:1]), {"first": ["0"]}, size=(3, 48, 48))] == [2]


@pytest.mark.parametrize(
    ("model", "stages", "says"),
    [
        (net(), {"third": ["2"]}, "stage third: a Sequential has no module '2'"),
        (net(nn.Flatten()), {"flat": ["2"]}, "no map of flat"),
        (nn.Sequential(nn.Linear(7, 2), nn.Conv2d(3, 4, 3)), {"late": ["1"]}, "no map of late"),
    ],
    ids=["no module", "no map", "never reached"],
)
def test_a_stage_without_a_map_is_named(model, stages, says):
    with pytest.raises(AnatomyError, match=says):
        measure_stages(model, stages)
