"""Files in the layout in which they were published go through the whole path, and every tensor is accounted for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
import torch
from torchvision import models
from zoo_torchvision import checkpoints
from zoo_torchvision.catalog import cards

import zoo_core as zoo

CARDS = {card.name: card for card in cards()}


@pytest.fixture
def publish(tmp_path, file_server):
    """Serve a file as the weights of a tag: ``publish(name, tag, state)``, proven by its digest."""
    folder = tmp_path / "published"
    folder.mkdir()
    server, own = file_server(folder), zoo.Zoo()

    def publish(name, tag, content):
        torch.save(content, folder / "file.pth")
        sha256 = hashlib.sha256((folder / "file.pth").read_bytes()).hexdigest()
        path = (folder / "file.pth").rename(folder / f"{name}-{sha256[:8]}.pth")
        entry = replace(CARDS[name].find(tag), urls=(f"{server.url}/{path.name}",), sha256=sha256)
        own.add(replace(CARDS[name], weights=(entry,), default=tag))
        return f"torchvision/{name}@{tag}"

    with zoo.use(own):
        yield publish


@pytest.fixture
def state_of(build):
    """A state dict in which no two tensors are alike: ``state_of(name, **options)``."""

    def state_of(name, **options):
        state = build(name, **options).state_dict()
        return {key: torch.full_like(tensor, number) for number, (key, tensor) in enumerate(state.items(), start=1)}

    return state_of


def old_names(state):
    """The names that torchvision gave the layers of DenseNet when it published its files."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2.", key): value for key, value in state.items()
    }


PUBLISHED = {
    # name, tag: what the constructor was given when the file was written
    ("densenet121", "IMAGENET1K_V1"): {},
    ("googlenet", "IMAGENET1K_V1"): {"aux_logits": True},
    ("inception_v3", "IMAGENET1K_V1"): {"aux_logits": True},
    ("deeplabv3_mobilenet_v3_large", "COCO_WITH_VOC_LABELS_V1"): {"aux_loss": True},
    ("fcn_resnet50", "COCO_WITH_VOC_LABELS_V1"): {"aux_loss": True},
    ("lraspp_mobilenet_v3_large", "COCO_WITH_VOC_LABELS_V1"): {},
    ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"): {"image_size": 384},
    ("vit_b_16", "IMAGENET1K_SWAG_LINEAR_V1"): {},
    ("mnasnet0_5", "IMAGENET1K_V1"): {},
    ("ssdlite320_mobilenet_v3_large", "COCO_V1"): {},
    ("fasterrcnn_resnet50_fpn", "COCO_V1"): {},
    ("raft_small", "C_T_V2"): {},
}
QUICK = {"densenet121", "googlenet", "deeplabv3_mobilenet_v3_large", "mnasnet0_5", "ssdlite320_mobilenet_v3_large"}


@pytest.mark.parametrize(
    ("name", "tag", "options"),
    [
        pytest.param(*key, options, id="@".join(key), marks=() if key[0] in QUICK else pytest.mark.full)
        for key, options in PUBLISHED.items()
    ],
)
def test_a_published_file_is_loaded_and_every_tensor_of_it_accounted_for(name, tag, options, publish, state_of):
    state = state_of(name, **options)
    model = zoo.get(publish(name, tag, old_names(state) if name == "densenet121" else state))
    loaded, receipt = model.state_dict(), zoo.receipt(model)
    assert set(receipt.tensors) == {*loaded, *state}
    assert set(receipt.names("loaded")) == set(loaded)
    assert set(receipt.names("ignored")) == set(state) - set(loaded)
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())
    assert (receipt.tag, receipt.strength) == (tag, "proven")


def test_googlenet_is_given_what_its_file_was_trained_with(publish, state_of):
    model = zoo.get(publish("googlenet", "IMAGENET1K_V1", state_of("googlenet", aux_logits=True)), num_classes=9)
    assert (model.aux1, model.aux2, model.transform_input, model.fc.out_features) == (None, None, True, 9)
    assert {name.split(".")[0] for name in zoo.receipt(model).names("ignored")} == {"aux1", "aux2"}
    assert zoo.receipt(model).names("initialized") == ("fc.weight", "fc.bias")


def test_an_inception_without_auxiliary_head_leaves_that_of_its_file_alone(publish, state_of):
    published = publish("inception_v3", "IMAGENET1K_V1", state_of("inception_v3", aux_logits=True))
    model = zoo.get(published, num_classes=9, options={"aux_logits": False})
    assert [head.path for head in zoo.anatomy(model).heads] == ["fc"]
    assert {name.split(".")[0] for name in zoo.receipt(model).names("ignored")} == {"AuxLogits"}


def test_both_heads_of_a_segmentation_model_are_swapped_over_its_file(publish, state_of):
    name, tag = "deeplabv3_mobilenet_v3_large", "COCO_WITH_VOC_LABELS_V1"
    model = zoo.get(publish(name, tag, state_of(name, aux_loss=True)), num_classes=9)
    sites = [head.path for head in zoo.anatomy(model).heads]
    assert sites == ["classifier.4", "aux_classifier.4"]
    assert set(zoo.receipt(model).names("initialized")) == {
        f"{site}.{kind}" for site in sites for kind in ("weight", "bias")
    }


def test_files_with_the_names_of_today_pass_unchanged():
    with torch.device("meta"):
        model = models.densenet121()
    assert checkpoints.densenet(model.state_dict(), model).keys() == model.state_dict().keys()
