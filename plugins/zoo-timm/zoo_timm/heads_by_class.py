"""The few classes of timm whose heads the rules do not fit, each with its reason; ``row_for_class`` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

MORE_HEADS: Mapping[str, tuple[tuple[str, Literal["aux", "summed"]], ...]] = {
    # A second head scores every patch, and half of the best is added; get_classifier knows the first alone.
    "VOLO": (("aux_head", "summed"),),
    # The auxiliary head of Inception, if the model is built with aux_logits=True.
    "InceptionV3": (("AuxLogits.fc", "aux"),),
}
"""The head sites that ``get_classifier`` leaves out."""

SCORES_TOKENS = {"VOLO": ("aux_head",)}
"""The head sites that score every token; beside these, those of an attention pool."""

CONVOLVED = {"DLA": True, "DPN": True}
"""Where the head is a convolution on the pooled map, and while there is none, nothing around its place says so."""

BEFORE_HEAD: Mapping[str, tuple[str, ...]] = {
    # Its forward_head(pre_logits=True) stops before the dropout, which is in a Sequential with the head.
    "MultiScaleVit": ("head.drop",),
}
"""What else runs between ``forward_head(pre_logits=True)`` and the head."""

COMBINED: Mapping[str, Literal["tokens", "concatenated", "patches"]] = {
    # The main head is given the class token and the distilled one the second token, and not the same vector.
    "VisionTransformerDistilled": "tokens",
    "PoolingVisionTransformer": "tokens",
    # Each head is given the vector of its own branch, or of its own depth.
    "CrossVit": "concatenated",
    "EfficientViM": "concatenated",
    # One head is given the image as a whole, and one its patches.
    "VOLO": "patches",
}
"""What several heads are given, where it is not one vector for all."""

WEIGHED: Mapping[str, tuple[str, ...]] = {
    "EfficientViM": ("weights",),
    "EfficientViMDistilled": ("weights", "weights_dist"),
}
"""The parameters in whose proportions the scores of several heads are added up, one for each group of heads."""

FEATURES_LIE: Mapping[str, Literal["NCHW", "NHWC"]] = {
    # The convolutions of its neck, after blocks that work on the last axis.
    "VisionTransformerSAM": "NCHW",
    # What its encoder returns to other networks.
    "DeepseekVitClassifier": "NHWC",
}
"""How the features lie, where it is otherwise than the maps of the stages."""

NO_CLASSIFIER = (
    "its library made it an encoder for a language model, which has no classifier; it accepts num_classes= and ignores "
    "it. The architecture of the same name without _enc is the same network with a place for a head"
)
"""Why a model without ``get_classifier`` has no head."""

UNPOOLED = {"EfficientViM": "built with global_pool='', it returns its feature maps and never calls its heads"}
"""Why a model that does not pool has no head."""
