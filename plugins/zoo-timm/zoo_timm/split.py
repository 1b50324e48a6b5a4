"""How the forward of a timm model splits: its features, what its head is given, and what it makes of the scores.

timm's models have ``forward_features`` and ``forward_head`` for that. ``forward_head(pre_logits=True)`` stops before
the classifier, which may be more than the layer that scores: what else is in there comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from zoo_core.plugin import Chain, Head
from zoo_timm.combined_heads import Apart, Averaged, Concatenated, PlusBestPatch, Weighed, image_and_patches, two_tokens
from zoo_timm.heads import NAMES, around, attended, attends, first_token, is_timms
from zoo_timm.timm_stages import layout, row_for_class

if TYPE_CHECKING:
    from torch import Tensor, nn

Piece = Callable[[Any, Any], Any]

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axes of a map with its channels first, and last, as the other one orders them."""

_FEATURES_LIE: Mapping[str, Literal["NCHW", "NHWC"]] = {
    # The convolutions of its neck, after blocks that work on the last axis.
    "VisionTransformerSAM": "NCHW",
    # What its encoder returns to other networks.
    "DeepseekVitClassifier": "NHWC",
}
"""How the features lie, where it is otherwise than the maps of the stages."""

_WEIGHED: Mapping[str, tuple[str, ...]] = {
    "EfficientViM": ("weights",),
    "EfficientViMDistilled": ("weights", "weights_dist"),
}
"""The parameters in whose proportions the scores of several heads are added up, one for each group of heads."""

_COMBINED: Mapping[str, Literal["tokens", "concatenated", "patches"]] = {
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

_BEFORE_HEAD: Mapping[str, tuple[str, ...]] = {
    # Its forward_head(pre_logits=True) stops before the dropout, which is in a Sequential with the head.
    "MultiScaleVit": ("head.drop",),
}
"""What else runs between ``forward_head(pre_logits=True)`` and the head."""


@dataclass(frozen=True)
class Split:
    """How the forward of a timm model splits, as in :class:`zoo_core.Anatomy`."""

    features: Piece | None = None
    pool: Piece | None = None
    classify: Piece | None = None
    indivisible: str | None = None


@dataclass(frozen=True)
class Features:
    """The features of a split: timm's ``forward_features``.

    Attributes:
        axes: The order of its axes, so that the map produced as those of the stages do; None where it does.
    """

    axes: tuple[int, ...] | None = None

    def __call__(self, model: Any, x: Tensor) -> Any:
        """Images to the last feature map or the tokens."""
        return _permuted(model.forward_features(x), self.axes)


@dataclass(frozen=True)
class PreLogits:
    """The pool of a split: timm's ``forward_head`` up to the classifier, and what comes before the scores in there.

    Attributes:
        then: What of the classifier runs before its last layer.
        axes: The order in which timm has the axes of the features; None where it is theirs.
    """

    then: Chain
    axes: tuple[int, ...] | None = None

    def __call__(self, model: Any, features: Any) -> Tensor:
        """Features to what the head is given."""
        return self.then(model, model.forward_head(_permuted(features, self.axes), pre_logits=True))


def split(model: nn.Module, heads: tuple[Head, ...]) -> Split:
    """How the forward of a timm model with these head sites splits.

    Args:
        model: A model of timm.
        heads: Its head sites, the main one first.

    Example:
        >>> import timm, torch
        >>> from zoo_timm.heads import heads
        >>> model = timm.create_model("resnet18").eval()
        >>> found = split(model, heads(model))
        >>> found.pool(model, found.features(model, torch.zeros(2, 3, 64, 64))).shape
        torch.Size([2, 512])
    """
    if not heads:
        return Split()
    if reason := _why_no_split(model, heads):
        return Split(indivisible=reason)
    if len(heads) > 1:
        return Split(Features(), *_of_several(model, heads))
    return _split_of_one_head(model, heads[0])


def as_map(x: Tensor) -> Tensor:
    """``[N, C]`` to ``[N, C, 1, 1]`` in the split of a timm model whose head is a convolution; a map stays as it is."""
    return x if x.dim() > 2 else x[..., None, None]  # noqa: PLR2004 - N, C


def _permuted(found: Any, axes: tuple[int, ...] | None) -> Any:
    """The features of a timm model's split with axes in another order; tokens, as DeepSeek's may give, as they are."""
    return found.permute(axes) if axes and found.dim() == len(axes) else found


def _why_no_split(model: Any, heads: tuple[Head, ...]) -> str | None:
    """Why the forward of a timm model does not split; None where it does."""
    if any(head.role == "aux" for head in heads):
        return "with an auxiliary head it returns a pair, in eval mode too"
    if attends(model) and not model.head.pool_type:
        return "built with global_pool='', it lays what its head gives out as a map again"
    return None


def _split_of_one_head(model: nn.Module, head: Head) -> Split:
    """Split of the forward of a timm model with one head."""
    if attends(model):
        return Split(Features(), attended, Chain(head.path, first_token))
    if head.kind == "conv":
        *_, owner = around(head.path)
        return Split(Features(), PreLogits(Chain(as_map)), Chain(head.path, f"{owner}.flatten" if owner else "flatten"))
    between = Chain(*_after_pre_logits(model, head.path))
    produced, declared = row_for_class(model, _FEATURES_LIE), layout(model)
    if produced == "NCHW" and declared == "NHWC":
        return Split(Features(_TO_LAST), PreLogits(between, _TO_FIRST))
    if produced == "NHWC" and declared == "NCHW":
        return Split(Features(_TO_FIRST), PreLogits(between, _TO_LAST))
    return Split(Features(), PreLogits(between))


def _of_several(model: nn.Module, heads: tuple[Head, ...]) -> tuple[Piece, Piece]:
    """Pool and classify of the split of a timm model with several heads."""
    paths, widths = tuple(head.path for head in heads), tuple(head.in_features for head in heads)
    given, weights = row_for_class(model, _COMBINED), row_for_class(model, _WEIGHED)
    if given == "concatenated":
        return PreLogits(Chain()), Weighed(paths, widths, weights) if weights else Concatenated(paths, widths)
    if given == "patches":
        return image_and_patches, PlusBestPatch(paths)
    if given == "tokens":
        return two_tokens, Averaged(paths, apart=True)
    between = tuple(Chain(*_after_pre_logits(model, path)) for path in paths)
    if any(chain.steps for chain in between):
        return Apart(between), Averaged(paths, apart=True)
    return PreLogits(Chain()), Averaged(paths)


def _after_pre_logits(model: nn.Module, path: str) -> Iterator[str]:
    """Paths of what a split runs between timm's ``forward_head(pre_logits=True)`` and a head site, in order.

    They are the other children of the classifier's own class, such as the batch norm before LeViT's linear layer.
    """
    yield from row_for_class(model, _BEFORE_HEAD) or ()
    for owner in around(path)[1:]:
        module = model.get_submodule(owner)
        if is_timms(module) and "pre_logits" not in signature(type(module).forward).parameters:
            yield from (f"{owner}.{name}" for name, _ in module.named_children() if name not in NAMES)
