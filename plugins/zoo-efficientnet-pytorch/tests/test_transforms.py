"""``zoo.transforms`` against the pipeline of the library's evaluation script, on a photograph."""

from __future__ import annotations

import pytest
import torch
from efficientnet_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import transforms
from zoo_efficientnet_pytorch.catalog import cards

import zoo_core as zoo

NAMES = [f"{card.name}@{tag}" for card in cards() for tag in card.tags]


def of_library(name, tag):
    """As in https://github.com/lukemelas/EfficientNet-PyTorch/blob/master/examples/imagenet/main.py."""
    if tag == "advprop":
        normalize = transforms.Lambda(lambda img: img * 2.0 - 1.0)
    else:
        normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    image_size = EfficientNet.get_image_size(name)
    return transforms.Compose(
        [
            transforms.Resize(image_size, interpolation=Image.BICUBIC),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            normalize,
        ]
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Argument 'interpolation'")
def test_an_image_comes_out_as_from_the_library(name, china):
    found, expected = zoo.transforms(f"efficientnet_pytorch/{name}")(china), of_library(*name.split("@"))(china)
    if name.endswith("@imagenet"):
        assert torch.equal(found, expected)
    else:  # (x - 0.5) / 0.5 and 2 x - 1 round differently in the last digit
        assert torch.allclose(found, expected, rtol=0, atol=2.4e-7)


@pytest.fixture(scope="module")
def china():
    return Image.fromarray(load_sample_image("china.jpg"))
