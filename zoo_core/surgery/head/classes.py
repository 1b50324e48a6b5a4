"""What the head at a site scores: how many classes, found by running it, and what they are called."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core.errors import HeadMismatch
from zoo_core.surgery.head.fit import _SPATIAL, mismatch
from zoo_core.surgery.head.mlp import Squeeze
from zoo_core.surgery.head.multi_head import Heads
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.surgery.metadata import anatomy_of, class_names_of, unwrap
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.eval_mode import evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.contract.anatomy import Head


_PROBE_BATCH = 2


_PROBE_SIDE = 7


def count_scores(head: nn.Module, site: Head, shape: Sequence[int] | None = None) -> int | dict[str, int]:
    """How many classes a new head scores at its site, by running it once on zeros; by name for several heads.

    One that holds nothing to score with, such as an ``Identity`` or a norm, scores none: it gives the features.

    Args:
        head: The new head.
        site: Where it goes.
        shape: Of what the site is given, without the batch; None for any that has the site's number of features.

    Raises:
        HeadMismatch: It does not take that, or returns something else than scores for each sample.
    """
    if isinstance(head, Heads):
        return {name: _count(each, site, shape) for name, each in head.items()}
    return _count(head, site, shape)


def classes_by_head(model: nn.Module, site: Head | None) -> dict[str, int]:
    """How many classes each of several heads at a head site scores; empty for one head, or none."""
    heads = model.get_submodule(site.path) if site else None
    if site is None or not isinstance(heads, Heads):
        return {}
    try:
        return {name: _count(head, site, None) for name, head in heads.items()}
    except HeadMismatch:  # one that flattens a map of one size
        return {}


@strict_arguments
def class_names(model: nn.Module) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """What the classes that the head of ``model`` scores are called, in that order; empty when unknown.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt``.

    Returns:
        The names; by head, where the model has several heads and their names were saved. In detectors and segmentation,
        class 0 is the background and has the first name.

    Raises:
        NotAZooModel: zoo knows nothing about it.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.class_names(zoo.get("tiny/glyphnet"))[:3]
        ('A', 'B', 'C')
    """
    names, counts = class_names_of(model), classes_by_head(unwrap(model), anatomy_of(model).main)
    if not names or sum(counts.values()) != len(names):
        return names
    rest = iter(names)
    return {head: tuple(islice(rest, count)) for head, count in counts.items()}


def _count(head: nn.Module, site: Head, shape: Sequence[int] | None) -> int:
    """How many classes one head scores at a site, found by running it on zeros of the shape that the site is given."""
    if isinstance(head, nn.Identity):
        return 0
    part = scoring_part(head)
    is_bare = has_nothing_to_score_with(part)
    given = (_PROBE_BATCH, *(shape or (site.in_features, *[_probe_side(head)] * _SPATIAL[site.kind])))
    like = next(head.parameters(), torch.empty(0, device="cpu"))
    try:
        with torch.no_grad(), evaluating(head):
            scores = head(torch.zeros(given, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise mismatch(head, site, shape, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not isinstance(scores, torch.Tensor) or scores.shape[:1] != given[:1]:
        raise mismatch(head, site, shape, f"it returned {_shape_returned(scores)} for a batch of {_PROBE_BATCH}")
    width = 1 if scores.dim() == 1 or _squeezes(head) else int(scores.shape[1])
    if width % site.per_class:
        raise mismatch(
            head, site, shape, f"it returned {width} scores, and the site takes {site.per_class} for each class"
        )
    return 0 if is_bare and (_is_torchs(part) or width == site.in_features) else width // site.per_class


def _probe_side(head: nn.Module) -> int:
    """How long the sides of a map are to count classes on: at least as long as what a head's convolutions look at."""
    layers = [each for each in head.modules() if isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    reaches = [step * (k - 1) + 1 for each in layers for k, step in zip(each.kernel_size, each.dilation, strict=True)]
    return max([_PROBE_SIDE, *reaches])


def scoring_part(head: nn.Module) -> nn.Module:
    """What scores the classes in a head: the head itself, or that of a branch with stages of its own."""
    body, site = getattr(head, "body", None), getattr(head, "site", None)
    return body.get_submodule(site) if isinstance(body, nn.Module) and isinstance(site, str) else head


def _is_torchs(module: nn.Module) -> bool:
    """Whether only torch's code runs in a head: a user's own may score classes without a tensor that is saved."""
    return all(type(each).__module__.startswith("torch.nn.") for each in module.modules())


def _squeezes(head: nn.Module) -> bool:
    """Whether a head of one class drops the axis of its scores at the end."""
    return isinstance(head, nn.Sequential) and any(isinstance(layer, Squeeze) for layer in head[-1:])


def _shape_returned(value: object) -> str:
    """The shape of what a head returned as its classes were counted, or its type where it is no tensor."""
    return str(list(value.shape)) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
