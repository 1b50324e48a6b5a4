"""Old names of tensors: files in the layout that was published load into the models of today."""

from __future__ import annotations

import re

import torch
from torchvision import models
from zoo_torchvision import checkpoints


def old_names(state, pattern, replacement):
    renamed = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    return renamed


def test_dense_layers_with_dots_in_their_names_load():
    model = models.densenet121()
    published = old_names(model.state_dict(), r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2.")
    model.load_state_dict(checkpoints.densenet(published, model))


def test_files_with_the_names_of_today_pass_unchanged():
    with torch.device("meta"):
        model = models.densenet121()
    assert checkpoints.densenet(model.state_dict(), model).keys() == model.state_dict().keys()
