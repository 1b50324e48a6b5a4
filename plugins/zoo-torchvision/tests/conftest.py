"""Models for the tests of this plugin: quick to build, and never all zero."""

from __future__ import annotations

from pkgutil import resolve_name

import pytest
import torch
from torch.overrides import TorchFunctionMode
from zoo_torchvision.catalog import cards

CARDS = {card.name: card for card in cards()}


class WithoutRandomNumbers(TorchFunctionMode):
    """Skips the draws of ``torch.nn.init``, which take longer than all the rest of building a model."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in {torch.Tensor.normal_, torch.Tensor.uniform_}:
            return args[0].zero_()  # not left as it is: trunc_normal_ draws until it likes what it sees
        return func(*args, **(kwargs or {}))


@pytest.fixture
def build():
    """Build the model of a card in eval mode, untrained, the weights of its matrices zero."""

    def build(name, **options):
        torch.set_num_threads(1)
        with WithoutRandomNumbers():
            return resolve_name(CARDS[name].build)(**{**CARDS[name].options, **options}).eval()

    return build


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
