"""From a file as it was published to the state dict of a model, by timm's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_timm.entrypoints import loading_of


def convert(content: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Convert a checkpoint of timm to the names and the shapes that its tensors have in the model.

    What timm does to a checkpoint of an architecture is in a function that its entrypoint names. An archive of numpy
    arrays is read by a method of the model instead.

    Args:
        content: All that the file holds: tensors by name, or such a mapping inside the wrappers of a training script.
        model: What it is for, as timm built it.

    Example:
        >>> import timm
        >>> model = timm.create_model("regnetx_002")
        >>> [*convert({"stem.0.weight": torch.zeros(32, 3, 3, 3), "fc.bias": torch.zeros(1000)}, model)]
        ['stem.conv.weight', 'head.fc.bias']
    """
    if any("/" in name for name in content):  # as flax names things, and torch cannot
        return _by_own_loader(content, model)
    built: Any = model
    convert = loading_of(built.pretrained_cfg["architecture"], built.pretrained_cfg.get("tag")).filter
    if convert is None:
        return dict(content)
    needed = [each for each in signature(convert).parameters.values() if each.default is Parameter.empty]
    return dict(convert(content, model) if len(needed) > 1 else convert(content))


def _by_own_loader(arrays: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of arrays as a timm model's own loader reads it; a tensor that it leaves alone is left out."""
    built: Any = model
    own = model.state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    built.load_pretrained(_Archive(arrays))
    return {name: tensor for name, tensor in own.items() if not tensor.isnan().any()}


class _Archive(BytesIO):
    """A ``.npz`` checkpoint in memory, for a loader of timm's that wants a path: numpy takes an open file too."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        super().__init__()
        numbers: dict[str, Any] = {name: tensor.numpy() for name, tensor in arrays.items()}
        np.savez(self, **numbers)
        self.seek(0)

    def __contains__(self, text: object) -> bool:
        """Whether the path has something in it, by which timm recognizes an archive of bfloat16."""
        return False
