"""``zoo.transforms`` against the library's own ``TransformImage``, on a photograph."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from zoo_pretrainedmodels.library import library

import zoo_core as zoo

SETTINGS = {f"{name}@{tag}": entry for name, tags in library.pretrained_settings.items() for tag, entry in tags.items()}
_KEYS = ("input_space", "input_size", "input_range", "mean", "std", "scale")
DISTINCT = {str([entry.get(key) for key in _KEYS]): name for name, entry in SETTINGS.items()}


class Options:
    """What the library reads a model's preprocessing from: the attributes it hangs on its models."""

    def __init__(self, entry):
        self.input_space, self.input_size, self.input_range = (entry[key] for key in _KEYS[:3])
        self.mean, self.std = entry["mean"], entry["std"]


@pytest.fixture(scope="module")
def china():
    return Image.fromarray(load_sample_image("china.jpg"))


def test_there_are_images_with_blue_first_and_a_white_of_255():
    kinds = {(entry["input_space"], max(entry["input_range"])) for entry in SETTINGS.values()}
    assert kinds == {("RGB", 1), ("BGR", 255)}


@pytest.mark.parametrize("name", sorted(DISTINCT.values()))
def test_an_image_comes_out_exactly_as_from_the_library(name, china):
    entry = SETTINGS[name]
    from pretrainedmodels.utils import TransformImage  # after the library was imported without its warnings

    own = TransformImage(Options(entry), scale=entry.get("scale", 0.875))
    assert torch.equal(zoo.transforms(f"pretrainedmodels/{name}")(china), own(china))
