"""Averages of weights of torch itself, in a model and in a file, and recalibration of batch norm."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tools import MODELS, batch, model, train
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import zoo_core as zoo

TOOL = "torch"
pytestmark = pytest.mark.extra


@pytest.mark.parametrize("name", MODELS)
def test_verbs_look_through_an_averaged_model(name, tmp_path):
    average = AveragedModel(model(name), multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    train(average.module, name, after=average.update_parameters)
    loaded = zoo.load(zoo.save(average, tmp_path / "x")).eval()
    assert torch.equal(loaded(batch(name)), average.eval()(batch(name)))
    zoo.freeze(average)
    zoo.swap_head(average, 3)
    assert average(batch(name)).shape[1] == 3


@pytest.mark.parametrize("name", MODELS)
def test_update_bn_leaves_frozen_norms_alone(name):
    average = AveragedModel(model(name, freeze="backbone"))
    before = copy.deepcopy(average.state_dict())
    update_bn([batch(name, 4)], average)
    assert zoo.drift(average, before) == {}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_an_averaged_model_gives_the_averages(name, tmp_path):
    inner = model(name)
    average = AveragedModel(inner, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    train(inner, name, after=average.update_parameters)
    torch.save({"model": inner.state_dict(), "ema": average.state_dict()}, tmp_path / "last.pt")
    loaded = zoo.get(name, weights=tmp_path / "last.pt").eval()
    assert torch.equal(loaded(batch(name)), average.eval()(batch(name)))
    assert zoo.receipt(loaded).taken.startswith("averaged weights, from 'ema'")
