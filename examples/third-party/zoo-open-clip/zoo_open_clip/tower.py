"""An image tower by itself, and where its parts are."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower
from torch import Tensor, nn

import zoo_core as zoo


class ImageTower(nn.Module):
    """The image half of a model, under the names that its tensors have in the files of the whole.

    Args:
        name: Of the model, as open_clip spells it.
        quick_gelu: Whether it was trained with OpenAI's approximation of GELU; None for what its configuration says.

    Attributes:
        embedding_dim: Length of the vector that forward gives, which open_clip's ``encode_image`` gives as well.

    Example:
        >>> ImageTower("ViT-S-32-alt")(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 256])
    """

    def __init__(self, name: str, *, quick_gelu: bool | None = None) -> None:
        super().__init__()
        config: Any = open_clip.get_model_config(name)
        vision = {**config["vision_cfg"], "timm_model_pretrained": False, "output_tokens": False}
        self.embedding_dim, self.image_size = config["embed_dim"], vision["image_size"]
        use_quick = config.get("quick_gelu", False) if quick_gelu is None else quick_gelu
        self.visual = _build_vision_tower(self.embedding_dim, vision, use_quick)
        self.head = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """The embedding of each image, or the scores of the classifier that was put on it."""
        scores: Tensor = self.head(self.visual(image))
        return scores


def anatomy(tower: ImageTower) -> zoo.Anatomy:
    """Stem, stages and the way to the embedding, traced; the head is said, for the projection before it is none.

    Args:
        tower: As it was built.

    Example:
        >>> [(stage.channels, stage.stride) for stage in anatomy(ImageTower("RN50")).stages]
        [(256, 4), (512, 8), (1024, 16), (2048, 32)]
    """
    return zoo.trace(tower, torch.zeros(1, 3, tower.image_size, tower.image_size), head="head").anatomy
