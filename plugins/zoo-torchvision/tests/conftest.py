"""Models for the tests of this plugin: quick to build, and never all zero."""

from __future__ import annotations

from pkgutil import resolve_name

import pytest
import torch
from support.random_numbers import WithoutRandomNumbers
from zoo_torchvision.catalog import cards

from zoo_core.build.skip_init import without_values

CARDS = {card.name: card for card in cards()}


@pytest.fixture
def build():
    """Build the model of a card in eval mode, untrained, the weights of its matrices zero."""

    def build(name, **options):
        torch.set_num_threads(1)
        with WithoutRandomNumbers():
            return resolve_name(CARDS[name].build)(**{**CARDS[name].options, **options}).eval()

    return build


@pytest.fixture
def build_shapes():
    """Build the model of a card in eval mode, and move it to the meta device: no memory of its values is touched."""

    def build_shapes(name, **options):
        with without_values():
            model = resolve_name(CARDS[name].build)(**{**CARDS[name].options, **options})
        return model.eval().to("meta")

    return build_shapes


@pytest.fixture
def randomise():
    """Give every matrix and kernel values that keep the variance of what passes through it."""

    def randomise(model):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    bound = (3 / parameter[0].numel()) ** 0.5
                    parameter.uniform_(-bound, bound)
        return model

    return randomise
