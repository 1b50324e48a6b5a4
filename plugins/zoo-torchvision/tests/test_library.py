"""What the library itself builds when it is given trained weights, beside what zoo builds for the same file.

The files are written here, with random numbers in the layout of the published ones, where torch.hub looks first.
"""

from __future__ import annotations

import re
from pkgutil import resolve_name

import pytest
import torch
from torch import nn
from torchvision import models
from zoo_torchvision.catalog import cards

from zoo_core.surgery.load_state_dict import load_state

CARDS = {card.name: card for card in cards()}
QUICK = {"fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"}
DETECTORS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.full)
    for name, card in CARDS.items()
    if card.task in {"detection", "keypoints"}
]


@pytest.fixture
def trained(build, tmp_path, monkeypatch):
    """The library's own trained model, from a file of random numbers under the name of the published one."""

    def trained(name, tag, published):
        weights = CARDS[name].find(tag)
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        torch.save(published, folder / weights.file_name)
        return models.get_model(name, weights=tag)

    return trained


def for_file(build, name, tag):
    """What zoo builds for the file of a tag, in train mode as the library does."""
    return build(name, **CARDS[name].find(tag).options).train()


def plan(model):
    """What a model is made of: class, mode and epsilon of each module, and which parameters train."""
    modules = {
        path: (type(module).__name__, module.training, getattr(module, "eps", None))
        for path, module in model.named_modules()
    }
    return modules, {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_for_trained_weights_is_the_one_that_the_library_builds(name, build, trained):
    for tag in CARDS[name].tags:
        ours = for_file(build, name, tag)
        assert plan(ours) == plan(trained(name, tag, ours.state_dict()))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_resizes_to_the_size_on_its_card(name, build):
    transform = build(name).transform
    side = transform.fixed_size[0] if transform.fixed_size else transform.min_size[-1]
    assert CARDS[name].input_size == (3, side, side)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_a_segmentation_model_for_trained_weights_is_the_one_that_the_library_builds(name, build, trained):
    ours = for_file(build, name, None)
    assert plan(ours) == plan(trained(name, CARDS[name].default, ours.state_dict()))


@pytest.mark.parametrize(("name", "full"), [("googlenet", {"aux_logits": True}), ("inception_v3", {})])
def test_an_inception_network_loads_its_file_as_the_library_does(name, full, build, trained, randomise):
    file = CARDS[name].find()
    published = randomise(build(name, **full)).state_dict()
    theirs = trained(name, file.tag, published).eval()
    ours = for_file(build, name, None).eval()
    load_state(ours, published, ignore=file.ignore)
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(ours(x), theirs(x))
    assert ours.aux_logits == theirs.aux_logits
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_a_densenet_loads_its_file_under_the_old_names_as_the_library_does(build, trained, randomise):
    model = randomise(build("densenet121"))
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2.", key): value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")  # the files are older than the counter, too
    }
    theirs = trained("densenet121", CARDS["densenet121"].default, published).eval()
    model.load_state_dict(resolve_name(CARDS["densenet121"].find().convert)(published, model))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), theirs(x))


def test_a_vision_transformer_for_larger_images_is_built_for_them(build):
    model = build("vit_b_16", **CARDS["vit_b_16"].find("IMAGENET1K_SWAG_E2E_V1").options)
    assert (model.image_size, model.encoder.pos_embedding.shape) == (384, (1, 577, 768))


def test_no_model_for_dense_tasks_asks_the_library_for_a_backbone(build, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"):
        assert isinstance(build(name), nn.Module)
    assert not list(tmp_path.rglob("*.pth"))
