"""Where the parts of a built timm model are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core import AnatomyError

if TYPE_CHECKING:
    from torch import nn

    from zoo_core import Anatomy


def anatomy(model: nn.Module) -> Anatomy:
    """Where the heads, the stem and the stages of a timm model are, and how its forward splits."""
    raise AnatomyError(f"{type(model).__name__} is not known yet")
