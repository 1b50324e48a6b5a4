"""From the names and shapes in the published files to those of the models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torchvision import models

from zoo_pretrainedmodels.library import Xception

if TYPE_CHECKING:
    from torch import Tensor, nn

_RENAMED: Mapping[type[nn.Module], Mapping[str, str]] = {
    # The library loads these files into torchvision's modules, and renames the modules afterwards.
    models.AlexNet: {
        "features.": "_features.",
        "classifier.1.": "linear0.",
        "classifier.4.": "linear1.",
        "classifier.6.": "last_linear.",
    },
    models.VGG: {
        "features.": "_features.",
        "classifier.0.": "linear0.",
        "classifier.3.": "linear1.",
        "classifier.6.": "last_linear.",
    },
    models.DenseNet: {"classifier.": "last_linear."},
    models.SqueezeNet: {"classifier.1.": "last_conv."},
    models.ResNet: {"fc.": "last_linear."},
    models.Inception3: {"fc.": "last_linear."},
    Xception: {"fc.": "last_linear."},
}
"""Class to what names begin with in its files, and in the model."""

_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def renamed(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint of pretrainedmodels under the names they have in the model.

    Args:
        state: Tensor name to tensor, as published.
        model: What they are for.
    """
    table = next((names for kind, names in _RENAMED.items() if isinstance(model, kind)), {})
    return {_rename(name, table): tensor for name, tensor in state.items()}


def without_background(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint with 1001 classes for a model without the first of them, the background.

    Args:
        state: Tensor name to tensor, as published.
        model: Of the same architecture with one class less; any other is given the file's tensors as they are.
    """
    weight = model.get_parameter("last_linear.weight")
    extra = len(state["last_linear.weight"]) - len(weight)
    return {
        name: tensor[1:] if extra == 1 and name.startswith("last_linear.") else tensor for name, tensor in state.items()
    }


def _rename(name: str, table: Mapping[str, str]) -> str:
    """The name that a tensor of a checkpoint of pretrainedmodels has in the model."""
    name = _DENSE_LAYER.sub(r"\1\2", name)
    for old, new in table.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
