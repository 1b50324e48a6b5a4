"""The models of pretrainedmodels as the tests of its plugin look at them."""

import functools
import importlib

import pytest
import torch
from zoo_pretrainedmodels.build import build
from zoo_pretrainedmodels.catalog import cards
from zoo_pretrainedmodels.library import library, quiet

from support.random_numbers import WithoutRandomNumbers

# Only after the plugin has imported the library without its warnings.
TransformImage = importlib.import_module("pretrainedmodels.utils").TransformImage
CARDS = {card.name: card for card in cards()}

LIGHT = {"alexnet", "dpn68b", "nasnetamobile", "resnet18", "squeezenet1_1"}
"""Layouts that run within half a second."""

ONE_OF_EACH = LIGHT | {"bninception", "densenet121", "dpn68", "inceptionv3", "se_resnet50", "vgg11_bn", "xception"}
"""The other layouts, which take a second or two."""

DEEPER = {
    # The layout of another one of the list with more of the same blocks.
    *("densenet161", "densenet169", "densenet201", "dpn92", "dpn98", "dpn107", "dpn131", "resnet101", "resnet152"),
    *("resnext101_64x4d", "se_resnet101", "se_resnet152", "se_resnext101_32x4d"),
}

every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sweep) if name in DEEPER else name for name in CARDS]
)
models_that_run = pytest.mark.parametrize(
    "name",
    [
        name
        if name in LIGHT
        else pytest.param(name, marks=pytest.mark.sweep if name in ONE_OF_EACH else pytest.mark.full)
        for name in CARDS
    ],
)
MENDED = (
    *("alexnet", "inceptionv3", "resnet18", "squeezenet1_1"),
    *(pytest.param(name, marks=pytest.mark.sweep) for name in ("bninception", "densenet121", "dpn68", "fbresnet152")),
    pytest.param("vgg11_bn", marks=pytest.mark.full),  # half a gigabyte to copy
)


def on_meta(name, **options):
    with torch.device("meta"):
        return build(name, **options).eval()


@functools.cache
def shared(name):
    """A model without storage that several tests look at; none may change it."""
    return on_meta(name)


def randomised(build, name):
    """A model of ``build(name)`` with random weights large enough that a difference cannot hide in zeros."""
    with WithoutRandomNumbers():
        model = build(name)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound)
    return model.eval()


def image(name, batch=1):
    torch.manual_seed(1)
    return torch.randn(batch, *CARDS[name].input_size)


def from_the_library(name):
    with quiet():
        return getattr(library, name)(num_classes=1000, pretrained=None).eval()
