"""Models that cannot train on a batch of 1, since a batch norm of theirs is given one number a channel."""

from __future__ import annotations

import pytest
import torch

import zoo_core as zoo
from zoo_core.testing import check_freeze, check_norms

NAMES = (
    "timm/resnest14d",
    "timm/skresnet18",
    "timm/efficientvit_m0",
    "torchvision/deeplabv3_mobilenet_v3_large",
)
SIDES = {"timm/efficientvit_m0": 224}


@pytest.fixture(params=NAMES)
def model(request):
    return zoo.get(request.param, weights=None, seed=0, num_classes=9).train()


@pytest.fixture
def image(model):
    side = SIDES.get(zoo.receipt(model).model, 64)
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def scores_in(output):
    return output["out"] if isinstance(output, dict) else output


def test_the_library_refuses_a_batch_of_one_in_train_mode(model, image):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(image)


def test_with_a_frozen_backbone_it_trains_on_one(model, image):
    zoo.freeze(model, "backbone").train()
    scores_in(model(image)).sum().backward()
    heads = tuple(head.path for head in zoo.anatomy(model).heads if head.role == "main")
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched
    assert all(name.startswith(heads) for name in touched)


def test_surgery_in_train_mode_runs_it_on_one_all_the_same_and_moves_nothing(model, image):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    zoo.encoder(model)
    zoo.split(model)
    zoo.swap_head(model, 5, seed=0)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])] == []
    with torch.no_grad():
        assert scores_in(model.eval()(image)).shape[1] == 5


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_kit_trains_it_on_more_than_one(name):
    for check in (check_freeze, check_norms):
        check(zoo.info(name))
