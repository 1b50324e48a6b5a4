"""Saves that leave out what published weights have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import zoo_core as zoo
from zoo_core import errors


def size(folder):
    return sum(each.stat().st_size for each in folder.glob("*.safetensors"))


def edit(folder, **fields):
    path = folder / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_frozen_backbone_is_left_out_and_what_moved_is_kept(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone", seed=0)
    with torch.no_grad():
        model.layer1.bn1.running_mean.add_(1)
    folder = zoo.save(model, tmp_path / "probe", with_base=False)
    assert size(folder) < size(zoo.save(model, tmp_path / "whole")) / 20
    x = torch.randn(2, 1, 32, 32)
    loaded = zoo.load(folder)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert torch.equal(loaded.layer1.bn1.running_mean, model.layer1.bn1.running_mean)
    assert not loaded.layer1.conv1.weight.requires_grad


def test_a_model_without_published_weights_has_nothing_to_leave_out(tmp_path):
    model = zoo.get("tiny/glyphnet", weights=None, seed=0)
    with pytest.raises(errors.NotSupported, match="with_base=True"):
        zoo.save(model, tmp_path / "x", with_base=False)
    assert zoo.load(zoo.save(model, tmp_path / "x", with_base=True))


def test_weights_that_are_not_in_the_cache_are_fetched_by_get_alone(served_resnet18, tmp_path):
    model = zoo.get("resnet18", num_classes=3, seed=0).eval()
    folder = zoo.save(model, tmp_path / "probe", with_base=False)
    shutil.rmtree(Path(zoo.receipt(model).path).parent)
    with pytest.raises(errors.WeightsError, match=r'zoo\.get\("torchvision/resnet18@IMAGENET1K_V1"\)'):
        zoo.load(folder)
    zoo.get("torchvision/resnet18@IMAGENET1K_V1")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(zoo.load(folder)(x), model(x))


def test_a_recipe_that_leaves_out_what_the_weights_do_not_have_is_refused(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=9, seed=0)
    folder = zoo.save(model, tmp_path / "x", with_base=False)
    edit(folder, from_base=["stem", "layer1", "layer2", "layer3", "fc"])
    with pytest.raises(errors.Unreadable, match=r"fc\.bias"):
        zoo.load(folder)
    edit(folder, weights={"tag": "GLYPHS_V1", "sha256": "0" * 64})
    with pytest.raises(errors.WeightsError, match="not in the cache"):
        zoo.load(folder)


class Squashed(torch.nn.Linear):
    """A head that only its own code can build."""

    def forward(self, x):
        return super().forward(x).tanh()


def test_a_head_of_its_own_code_needs_all_tensors(tmp_path):
    model = zoo.get("tiny/glyphnet", head=Squashed(64, 3), seed=0)
    with pytest.raises(errors.NotSupported, match="custom_heads=True, with_base=True"):
        zoo.save(model, tmp_path / "x", custom_heads=True, with_base=False)
    folder = zoo.save(model, tmp_path / "x", custom_heads=True, with_base=True)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(zoo.load(folder, heads={"main": Squashed(64, 3)}).eval()(x), model.eval()(x))
