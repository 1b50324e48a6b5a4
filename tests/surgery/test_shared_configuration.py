"""Models that were built from one configuration object keep their own numbers."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from torch import nn

import zoo_core as zoo


class _Configured(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Sequential(nn.Conv2d(config.num_channels, 8, 3), nn.ReLU())
        self.body.config = config  # type: ignore[assignment]  # a part that shares it, as those of transformers
        self.head = nn.Linear(8, config.num_labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


def test_surgery_changes_the_configuration_of_its_own_model_only() -> None:
    config = SimpleNamespace(num_channels=3, num_labels=10)
    model, other = _Configured(config), _Configured(config)
    zoo.adopt(model, example=torch.rand(1, 3, 32, 32))

    zoo.swap_head(model, 5)
    zoo.adapt_stem(model, 4)

    assert (model.config.num_labels, model.config.num_channels) == (5, 4)
    assert (other.config.num_labels, other.config.num_channels) == (10, 3)
    assert model.body.config is model.config
    assert copy.deepcopy(model).config == model.config
