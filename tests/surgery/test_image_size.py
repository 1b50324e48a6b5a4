"""Models that were built for images of another size than their card says: every verb runs them on images of theirs."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from torchvision.models import VisionTransformer

import zoo_core as zoo
from zoo_core.errors import LoadMismatch
from zoo_core.inspect.overlay import view_of
from zoo_core.surgery.inputs import example_input

NAME, SIZE = "timm/test_vit", (96, 64)


def by_options():
    return zoo.get(NAME, weights=None, num_classes=3, options={"img_size": SIZE})


def by_the_library():
    return zoo.adopt(timm.create_model("test_vit", img_size=SIZE, num_classes=3), family="timm")


def by_hand():
    model = zoo.get(NAME, weights=None, num_classes=3)
    model.set_input_size(img_size=SIZE)
    return model


def from_a_save(tmp_path):
    return zoo.load(zoo.save(by_options(), tmp_path / "saved"))


BUILT = [by_options, by_the_library, by_hand]


@pytest.mark.parametrize("build", BUILT)
def test_its_example_is_of_that_size(build):
    model = build()
    x = example_input(model)
    assert x.shape == (1, 3, *SIZE)
    assert model(x).shape == (1, 3)


def test_its_example_is_of_that_size_after_it_was_loaded(tmp_path):
    assert example_input(from_a_save(tmp_path)).shape == (1, 3, *SIZE)


def test_a_network_that_takes_any_size_has_that_of_its_card():
    assert example_input(zoo.get("timm/test_resnet", weights=None)).shape == (1, 3, 160, 160)


@pytest.mark.parametrize("build", BUILT)
def test_the_preprocessing_of_a_name_is_set_for_that_size(build):
    model = zoo.set_preprocessing(build(), NAME)
    assert zoo.transforms(model)(Image.new("RGB", (200, 300))).shape == (3, *SIZE)


def test_a_network_of_ones_own_takes_the_preprocessing_of_a_name_as_it_is():
    own = zoo.adopt(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), example=torch.rand(1, 3, 40, 40))
    assert zoo.preprocessing(zoo.set_preprocessing(own, NAME)) == zoo.preprocessing(NAME)


def test_a_preprocessing_of_ones_own_stays_as_it_is():
    own = zoo.preprocessing(NAME, size=80)
    assert zoo.preprocessing(zoo.set_preprocessing(by_options(), own)).crop == (80, 80)


def test_the_preprocessing_of_its_weights_is_for_that_size():
    model = zoo.adopt(timm.create_model("test_vit", img_size=SIZE), family="timm", name="test_vit", weights="r160_in1k")
    assert zoo.preprocessing(model).crop == SIZE


def test_an_image_is_shown_to_it_in_that_size_where_no_preprocessing_is_known():
    assert view_of(by_options(), Image.new("RGB", (200, 300))).x.shape == (1, 3, *SIZE)


def test_its_costs_are_those_of_that_size():
    (row,) = zoo.compare([by_options().eval()]).rows
    assert row.latency


def test_a_stem_is_adapted_and_branches_are_made_on_images_of_that_size():
    model = zoo.adopt(VisionTransformer(32, 16, 3, 4, 32, 64, num_classes=6).eval(), family="torchvision")
    zoo.branch(zoo.adapt_stem(model, 1), at="encoder_layer_2", heads={"a": 3})
    assert model(torch.rand(2, 1, 32, 32))["a"].shape == (2, 3)


@pytest.mark.sweep
def test_a_file_for_another_size_than_the_options_say_names_the_option(tmp_path):
    model = VisionTransformer(224, 32, 12, 12, 768, 3072)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(LoadMismatch, match=r"than 'image_size' says(.|\n)*leave 'image_size' out"):
        zoo.get("torchvision/vit_b_32", weights=tmp_path / "vit.pth", options={"image_size": 64})
