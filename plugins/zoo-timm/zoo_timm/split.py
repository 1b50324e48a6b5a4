"""How the forward of a timm model splits: its features, what its head is given, and what it makes of the scores.

timm's models have ``forward_features`` and ``forward_head`` for that. ``forward_head(pre_logits=True)`` stops before
the classifier, which may be more than the layer that scores: what else is in there comes after it. Models with several
heads do not say what each is given; for them there is a class for each way to combine heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from timm.layers.attention_pool2d import AttentionPool2d, RotAttentionPool2d
from timm.models.crossvit import CrossVit
from timm.models.volo import VOLO

from zoo_core import Chain, Head
from zoo_timm.combined import (
    Apart,
    Averaged,
    Concatenated,
    PlusBestPatch,
    Weighed,
    attended,
    first_token,
    picture_and_patches,
    two_tokens,
)
from zoo_timm.exceptions import BEFORE_HEAD, TWO_TOKENS, WEIGHED
from zoo_timm.heads import NAMES, around, is_timms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    Piece = Callable[[Any, Any], Any]

_ATTENTION_POOLS = (AttentionPool2d, RotAttentionPool2d)


@dataclass(frozen=True)
class Split:
    """How forward splits, as in :class:`zoo_core.Anatomy`."""

    features: Piece | None = None
    pool: Piece | None = None
    classify: Piece | None = None
    indivisible: str | None = None


@dataclass(frozen=True)
class PreLogits:
    """timm's ``forward_head`` up to the classifier, and then what comes before the scores in there.

    Attributes:
        then: What of the classifier runs before its last layer.
    """

    then: Chain

    def __call__(self, model: Any, features: Any) -> Tensor:  # noqa: ANN401 - as Anatomy.pool
        """Features to what the head is given."""
        return self.then(model, model.forward_head(features, pre_logits=True))


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
    if reason := _indivisible(model, heads):
        return Split(indivisible=reason)
    return Split(features, *_pool_and_classify(model, heads))


def _indivisible(model: nn.Module, heads: tuple[Head, ...]) -> str | None:
    if any(head.role == "aux" for head in heads):
        return "with an auxiliary head it returns a pair, in eval mode too"
    head = getattr(model, "head", None)
    if isinstance(head, _ATTENTION_POOLS) and not head.pool_type:
        return "built with global_pool='', it lays what its head gives out as a map again"
    return None


def features(model: Any, x: Tensor) -> Any:  # noqa: ANN401 - a list of maps in some models
    """Pictures to the last feature map or the tokens, as timm has it."""
    return model.forward_features(x)


def as_map(x: Tensor) -> Tensor:
    """``[N, C]`` to ``[N, C, 1, 1]`` for a head that is a convolution; a map stays as it is."""
    return x if x.dim() > 2 else x[..., None, None]  # noqa: PLR2004 - N, C


def _pool_and_classify(model: nn.Module, heads: tuple[Head, ...]) -> tuple[Piece, Piece | None]:
    if len(heads) > 1:
        return _of_several(model, heads)
    path = heads[0].path
    if isinstance(getattr(model, "head", None), _ATTENTION_POOLS):
        return attended, Chain(path, first_token)
    if heads[0].kind == "linear":
        return PreLogits(Chain(*_after_pre_logits(model, path))), None
    *_, owner = around(path)
    return PreLogits(Chain(as_map)), Chain(path, f"{owner}.flatten" if owner else "flatten")


def _of_several(model: nn.Module, heads: tuple[Head, ...]) -> tuple[Piece, Piece | None]:
    paths, widths = tuple(head.path for head in heads), tuple(head.in_features for head in heads)
    if type(model) in WEIGHED:
        return PreLogits(Chain()), Weighed(paths, widths, WEIGHED[type(model)])
    if isinstance(model, CrossVit):
        return PreLogits(Chain()), Concatenated(paths, widths)
    if isinstance(model, VOLO):
        return picture_and_patches, PlusBestPatch(paths)
    if isinstance(model, TWO_TOKENS):
        return two_tokens, Averaged(paths, apart=True)
    between = tuple(Chain(*_after_pre_logits(model, path)) for path in paths)
    if any(chain.steps for chain in between):
        return Apart(between), Averaged(paths, apart=True)
    return PreLogits(Chain()), Averaged(paths)


def _after_pre_logits(model: nn.Module, path: str) -> Iterator[str]:
    """Paths of the modules between what ``forward_head(pre_logits=True)`` gives and a head site, as they run.

    They are the other children of the classifier's own class, such as the batch norm before LeViT's linear layer.
    """
    yield from BEFORE_HEAD.get(type(model), ())
    for owner in around(path)[1:]:
        module = model.get_submodule(owner)
        if is_timms(module) and "pre_logits" not in signature(type(module).forward).parameters:
            yield from (f"{owner}.{name}" for name, _ in module.named_children() if name not in NAMES)
