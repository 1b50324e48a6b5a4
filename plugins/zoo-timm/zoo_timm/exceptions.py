"""The few classes of timm that the rules do not fit, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from timm.models.deit import VisionTransformerDistilled
from timm.models.dla import DLA
from timm.models.dpn import DPN
from timm.models.efficientvim import EfficientViM, EfficientViMDistilled
from timm.models.inception_v3 import InceptionV3
from timm.models.mvitv2 import MultiScaleVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.volo import VOLO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    Classes = Mapping[type[nn.Module], tuple[str, ...]]

MORE_HEADS: Mapping[type[nn.Module], tuple[tuple[str, Literal["aux", "summed"]], ...]] = {
    # A second head scores every patch, and half of the best is added; get_classifier knows the first alone.
    VOLO: (("aux_head", "summed"),),
    # The auxiliary head of Inception, if the model is built with aux_logits=True.
    InceptionV3: (("AuxLogits.fc", "aux"),),
}
"""Class of model to the head sites that its ``get_classifier`` leaves out."""

CONVOLVED = (DLA, DPN)
"""Their head is a convolution on the pooled map, and while there is none, nothing around its place says so."""

BEFORE_HEAD: Classes = {
    # Its forward_head(pre_logits=True) stops before the dropout, which is in a Sequential with the head.
    MultiScaleVit: ("head.drop",),
}
"""Class of model to what else runs between ``forward_head(pre_logits=True)`` and its head."""

TWO_TOKENS = (VisionTransformerDistilled, PoolingVisionTransformer)
"""Their main head is given the class token and their distilled one the second token, and not the same vector."""

WEIGHED: Classes = {
    # The heads of all depths are added up, in proportions that are learned.
    EfficientViM: ("weights",),
    EfficientViMDistilled: ("weights", "weights_dist"),
}
"""Class of model to the parameters that weigh its heads, one for each group of them."""

NO_CLASSIFIER = (
    "its library made it an encoder for a language model, which has no classifier; it accepts num_classes= and ignores "
    "it. The architecture of the same name without _enc is the same network with a place for a head"
)
"""Why a model without ``get_classifier`` has no head."""

NOT_POOLED = "built with global_pool='', it returns its feature maps and never calls its heads"
"""Why an EfficientViM has no head."""
