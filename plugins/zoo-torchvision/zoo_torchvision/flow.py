"""Where the parts of torchvision's optical-flow models are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.plugin import Anatomy
from zoo_torchvision.measure import in_sequence

if TYPE_CHECKING:
    from torchvision.models.optical_flow import RAFT


def raft(model: RAFT) -> Anatomy:
    """Optical flow by RAFT: two encoders see the images, and no layer gives scores of classes.

    The stages are the first encoder's.
    """
    rows = [(name, (f"feature_encoder.{name}",)) for name in ("convnormrelu", "layer1", "layer2", "layer3")]
    return Anatomy(
        heads=(),
        stem=("feature_encoder.convnormrelu.0", "context_encoder.convnormrelu.0"),
        stages=in_sequence(model, rows)[1:],
        headless=f"{type(model).__name__} gives the motion of every pixel, and no scores of classes",
    )
