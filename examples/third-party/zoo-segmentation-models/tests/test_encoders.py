"""Weights, maps and surgery of encoders that have no head."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import encoders
from torch import nn
from zoo_segmentation_models.anatomy import renamed

import zoo_core as zoo

X = torch.randn(1, 3, 64, 64)


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """resnet18's weights are a file of ours, which still has the classifier that the encoder was trained as."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    model = zoo.get("segmentation_models/resnet18", weights=None, seed=1).eval()
    save_file({**model.state_dict(), "fc.weight": torch.zeros(1000, 512)}, tmp_path / "model.safetensors")
    own = zoo.Zoo()
    card = own.resolve("segmentation_models/resnet18")[0]
    weights = replace(card.find(), urls=((tmp_path / "model.safetensors").as_uri(),))
    own.member("segmentation_models").cards = {"resnet18": replace(card, weights=(weights,))}
    with zoo.use(own):
        yield model


def test_the_classifier_in_a_file_is_ignored_and_accounted_for(own_file):
    ours = zoo.get("segmentation_models/resnet18", trust="first-use").eval()
    assert zoo.receipt(ours).names("ignored") == ("fc.weight",)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(ours(X)[1:], own_file(X)[1:], strict=True))


@pytest.mark.parametrize("name", ["densenet121", "dpn68", "efficientnet-b0", "inceptionv4", "mit_b0", "xception"])
def test_the_encoder_of_zoo_gives_the_maps_of_the_library(name):
    model = zoo.get(f"segmentation_models/{name}", weights=None, seed=0).eval()
    with torch.no_grad():
        ours, theirs = zoo.encoder(model)(X), [made for made in model(X)[1:] if made.numel()]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_every_encoder_of_the_library_has_a_card():
    names = zoo.list(family="segmentation_models", task="encoder")
    assert names == [f"segmentation_models/{name}" for name in encoders]


def test_every_tensor_of_a_densenet_under_its_older_name_finds_its_place():
    state = zoo.get("segmentation_models/densenet121", weights=None).state_dict()
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))(?=[12]\.)", r"\1.", name): state[name] for name in state}
    assert older.keys() != state.keys()
    assert renamed(older, nn.Identity()).keys() == state.keys()


def test_freezing_goes_by_stage():
    model = zoo.freeze(zoo.get("segmentation_models/resnet18", weights=None), until="stage5")
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(name.startswith("layer4.") for name in trainable)


def test_it_takes_more_channels():
    model = zoo.get("segmentation_models/mobilenet_v2", weights=None, in_channels=5).eval()
    assert model(torch.randn(1, 5, 64, 64))[-1].shape == (1, 1280, 2, 2)
