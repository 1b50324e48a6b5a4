"""A model as what turns images into one vector each: its backbone, pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.split import split

if TYPE_CHECKING:
    from zoo_core.surgery.features.split import Backbone

_VECTORS, _TOKENS, _MAPS = 2, 3, 4


class Vectors(nn.Module):
    """One vector for each image, ``[N, D]``: what the head of a model is given, with maps and tokens averaged.

    It shares every tensor with the model, and is left in its mode.

    Args:
        model: A model with a head, from ``zoo.get`` or ``zoo.adopt``.

    Raises:
        NotSupported: The model has no head, or cannot be split.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> Vectors(zoo.get("tiny/glyphnet").eval())(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        backbone, _ = split(model)
        self.backbone: Backbone = backbone
        self.training = backbone.training

    def forward(self, x: Tensor) -> Tensor:
        """Images to vectors."""
        pooled = self.backbone(x)
        if not isinstance(pooled, Tensor) or not _VECTORS <= pooled.ndim <= _MAPS + 1:
            raise NotSupported(
                "the head of this model is given several maps, and no vector comes of them",
                hint="zoo.features(model, x, at=[...]) gives the maps of its stages",
            )
        if pooled.ndim == _VECTORS:
            return pooled
        if pooled.ndim == _TOKENS:
            return pooled.mean(1)
        return pooled.flatten(2).mean(2)
