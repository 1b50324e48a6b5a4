"""timm's pruned networks: layers of another are cut down to the shapes in a list, which leaves it in eval mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm

if TYPE_CHECKING:
    from torch import nn

NAMES = ("ecaresnet101d_pruned", "ecaresnet50d_pruned", *(f"efficientnet_b{number}_pruned" for number in (1, 2, 3)))
"""Those that go through timm's ``adapt_model_from_file``."""


def create_model(model_name: str, **options: Any) -> nn.Module:
    """Build a pruned network of timm, in train mode as all others are.

    Example:
        >>> create_model("efficientnet_b1_pruned").training
        True
    """
    model: nn.Module = timm.create_model(model_name, **options)
    return model.train()
