"""Old names of tensors: what torchvision's own loading code renames in the files it published. No torch here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
_MLP = re.compile(r"(.*\.mlp)\.linear_([12])\.(weight|bias)")


def densenet(state: Mapping[str, Any], model: object) -> dict[str, Any]:  # noqa: ARG001 - the contract of Weights.convert
    """Take the dots out of the layer names: ``norm.1.weight`` is ``norm1.weight`` today.

    The published files are older than the rule that a module's name has no dot in it.

    Args:
        state: The state dict of a file.
        model: The model it is for.

    Example:
        >>> list(densenet({"features.denseblock1.denselayer2.norm.1.weight": 0}, None))
        ['features.denseblock1.denselayer2.norm1.weight']
    """
    return _renamed(state, _DENSE, lambda match: match[1] + match[2])


def vision_transformer(state: Mapping[str, Any], model: object) -> dict[str, Any]:  # noqa: ARG001 - as above
    """Name the two layers of each MLP by their place in it: ``linear_2`` is ``3`` today.

    The first published files are older than https://github.com/pytorch/vision/pull/6053.

    Args:
        state: The state dict of a file.
        model: The model it is for.

    Example:
        >>> list(vision_transformer({"encoder.layers.encoder_layer_0.mlp.linear_2.bias": 0}, None))
        ['encoder.layers.encoder_layer_0.mlp.3.bias']
    """
    return _renamed(state, _MLP, lambda match: f"{match[1]}.{3 * (int(match[2]) - 1)}.{match[3]}")


def _renamed(state: Mapping[str, Any], old: re.Pattern[str], new: Callable[[re.Match[str]], str]) -> dict[str, Any]:
    return {new(match) if (match := old.fullmatch(key)) else key: value for key, value in state.items()}
