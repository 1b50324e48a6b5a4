"""Whole models: a decoder on an encoder, with a head of masks."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

import zoo_core as zoo

X = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(0))


def with_noise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.02)
    return model.eval()


@pytest.mark.parametrize("name", zoo.list("*-mobilenet_v2", family="segmentation_models", task="segmentation"))
@torch.no_grad()
def test_a_mask_of_other_classes_and_channels_is_split_frozen_saved_and_loaded(name, tmp_path):
    model = with_noise(zoo.get(name, weights=None, num_classes=5, in_channels=4))
    scores = model(X)
    backbone, head = zoo.split(model)
    assert scores.shape == (1, 5, 128, 128)
    assert torch.equal(head(backbone(X)), scores)
    zoo.save(model, tmp_path / "model")
    assert torch.equal(zoo.load(tmp_path / "model").eval()(X), scores)
    trained = {key.split(".")[0] for key, each in zoo.freeze(model).named_parameters() if each.requires_grad}
    assert trained == {"segmentation_head"}


@torch.no_grad()
def test_a_model_is_that_of_the_library_and_its_encoder_too():
    theirs = with_noise(smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=1))
    ours = zoo.get("segmentation_models/unet-resnet18", weights=None).eval()
    ours.load_state_dict(theirs.state_dict())
    x = X[:, :3]
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(zoo.encoder(ours)(x), theirs.encoder(x)[1:], strict=True))


def test_every_decoder_of_the_library_but_that_of_vision_transformers_has_a_card():
    names = {name.split("/")[1].split("-")[0] for name in zoo.list(family="segmentation_models", task="segmentation")}
    assert names == {*smp.MODEL_ARCHITECTURES_MAPPING} - {"dpt"}


def test_the_encoder_is_frozen_by_itself():
    model = zoo.freeze(zoo.get("segmentation_models/unet-resnet18", weights=None), "encoder")
    trained = {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"decoder", "segmentation_head"}


def test_a_classifier_of_the_image_stays_beside_the_masks(tmp_path):
    name = "segmentation_models/unet-resnet18"
    model = with_noise(zoo.get(name, weights=None, num_classes=5, options={"aux_classes": 3}))
    zoo.save(model, tmp_path / "model")
    masks, labels = zoo.load(tmp_path / "model").eval()(X[:, :3])
    assert masks.shape == (1, 5, 128, 128)
    assert torch.equal(labels, model(X[:, :3])[1])


@pytest.mark.parametrize("encoder", ["dpn68", "tu-mobilenetv3_small_050"])
def test_other_encoders_are_an_option(encoder):
    model = zoo.get("segmentation_models/unet-resnet18", weights=None, options={"encoder_name": encoder}, num_classes=2)
    with torch.no_grad():
        theirs = [made for made in model.eval().encoder(X[:, :3])[1:] if made.numel()]
        assert [made.shape for made in zoo.encoder(model)(X[:, :3])][-1:] == [made.shape for made in theirs][-1:]


def test_an_image_becomes_a_mask():
    model = zoo.get("segmentation_models/unet-resnet18", weights=None, num_classes=4)
    zoo.set_preprocessing(model, "segmentation_models/resnet18")
    assert zoo.predict(model, torch.zeros(3, 96, 64, dtype=torch.uint8)).mask.shape == (96, 64)
