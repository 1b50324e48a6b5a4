"""``zoo.transforms`` against the presets that torchvision ships with its weights, on a photograph."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import models
from torchvision.transforms.v2.functional import pil_to_tensor
from zoo_torchvision.catalog import cards

import zoo_core as zoo

ENTRIES = [(card, weights.tag) for card in cards() for weights in card.weights]


def preset(card, tag):
    """The library's own pipeline."""
    return models.get_model_weights(card.name)[tag].transforms()


def distinct(task):
    """One of the entries for each preset that prints differently, among those of a task."""
    found = {str(preset(card, tag)): (card, tag) for card, tag in reversed(ENTRIES) if card.task == task}
    return [pytest.param(*each, id=f"{each[0].name}@{each[1]}") for each in reversed(found.values())]


def of_zoo(card, tag):
    return zoo.transforms(f"torchvision/{card.name}@{tag}")


@pytest.fixture(scope="module")
def china():
    return Image.fromarray(load_sample_image("china.jpg"))


@pytest.mark.parametrize(("card", "tag"), [*distinct("classification"), *distinct("segmentation")])
def test_an_image_comes_out_exactly_as_from_the_preset(card, tag, china):
    assert torch.equal(of_zoo(card, tag)(china), preset(card, tag)(china))


@pytest.mark.full
@pytest.mark.parametrize(
    ("card", "tag"), [pytest.param(card, tag, id=f"{card.name}@{tag}") for card, tag in ENTRIES if card.task != "video"]
)
def test_an_image_comes_out_exactly_as_from_the_preset_of_every_entry(card, tag, china):
    given = (china, china) if card.task == "optical_flow" else (china,)
    expected = preset(card, tag)(*given)
    assert torch.equal(of_zoo(card, tag)(china), expected[0] if card.task == "optical_flow" else expected)


@pytest.mark.parametrize(("card", "tag"), [*distinct("detection"), *distinct("keypoints")])
def test_a_detector_gets_the_image_as_it_is_in_floats(card, tag, china):
    assert torch.equal(of_zoo(card, tag)(china), preset(card, tag)(china))


@pytest.mark.parametrize(("card", "tag"), distinct("optical_flow"))
def test_each_image_of_a_pair_comes_out_as_from_the_preset_for_pairs(card, tag, china):
    first, second = preset(card, tag)(china, china.rotate(5))
    assert torch.equal(of_zoo(card, tag)(china), first)
    assert torch.equal(of_zoo(card, tag)(china.rotate(5)), second)


@pytest.mark.parametrize(("card", "tag"), distinct("video"))
def test_a_video_differs_from_that_of_the_preset_by_a_level_of_255_at_most(card, tag, china):
    # torch's resampling of uint8, which v2 takes and the preset does not, rounds otherwise
    frames = torch.stack([pil_to_tensor(china), pil_to_tensor(china.rotate(5))])
    found, expected = of_zoo(card, tag)(frames), preset(card, tag)(frames)
    assert found.shape == expected.shape
    std = torch.tensor(card.find(tag).preprocessing.std).view(3, 1, 1, 1)
    assert ((found - expected).abs() * std * 255).max() < 1.001


@pytest.mark.parametrize(
    ("name", "most", "mean"),
    [
        ("resnet18@IMAGENET1K_V1", 1, 0.2),
        ("vit_b_16@IMAGENET1K_SWAG_E2E_V1", 16, 0.2),  # bicubic overshoots at hard edges, and is cut off elsewhere
    ],
)
def test_a_tensor_differs_from_that_of_the_preset_by_few_levels_of_255(name, most, mean, china):
    # torch's resampling of uint8, which v2 takes and the preset does not, rounds after each of its two passes
    entry = models.get_model_weights(name.partition("@")[0])[name.partition("@")[2]]
    found, expected = (pipeline(pil_to_tensor(china)) for pipeline in (zoo.transforms(name), entry.transforms()))
    levels = (found - expected).abs() * torch.tensor(entry.transforms().std).view(3, 1, 1) * 255
    assert levels.max() < most + 0.001
    assert levels.mean() < mean
