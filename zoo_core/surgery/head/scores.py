"""What the heads of a model score: how many classes, what these are called, and how the scores it returns are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.chain import Chain
from zoo_core.errors import HeadMismatch
from zoo_core.surgery.head.fit import _SPATIAL, mismatch
from zoo_core.surgery.head.mlp import Squeeze, WithOutput
from zoo_core.surgery.head.multi_head import EachHead, Heads, PerHead
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.surgery.metadata import anatomy_of, class_names_of, metadata_of, unwrap
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.eval_mode import evaluating

_PROBE_BATCH = 2


_PROBE_SIDE = 7


def count_scores(head: nn.Module, site: Head, shape: Sequence[int] | None = None) -> int | dict[str, int]:
    """Count the scores of a new head, one for each class, by running it once on zeros; by name for several heads.

    One that holds nothing to score with, such as an ``Identity`` or a norm, scores none: it gives the features.

    Args:
        head: The new head.
        site: Where it goes.
        shape: Of what the site is given, without the batch; None for any that has the site's number of features.

    Raises:
        HeadMismatch: It does not take that, or returns something else than scores for each sample.
    """
    if isinstance(head, Heads):
        return {name: _count_scores_of_one(each, site, shape) for name, each in head.items()}
    return _count_scores_of_one(head, site, shape)


def classes_by_head(model: nn.Module, site: Head | None) -> dict[str, int]:
    """Count the scores of each of several heads at a site, as of :func:`count_scores`; empty for one head, or none."""
    heads = model.get_submodule(site.path) if site else None
    if site is None or not isinstance(heads, Heads):
        return {}
    try:
        return {name: _count_scores_of_one(head, site, None) for name, head in heads.items()}
    except HeadMismatch:  # one that flattens a map of one size
        return {}


@strict_arguments
def class_names(model: nn.Module) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Names of the classes that the head of ``model`` scores, in the order of the scores; empty when unknown.

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


def _count_scores_of_one(head: nn.Module, site: Head, shape: Sequence[int] | None) -> int:
    """Count the scores of one head, one for each class, by running it on zeros of the shape that the site is given."""
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
        returned = str(list(scores.shape)) if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
        raise mismatch(head, site, shape, f"it returned {returned} for a batch of {_PROBE_BATCH}")
    is_squeezed = isinstance(head, nn.Sequential) and any(isinstance(layer, Squeeze) for layer in head[-1:])
    width = 1 if scores.dim() == 1 or is_squeezed else int(scores.shape[1])
    if width % site.per_class:
        raise mismatch(
            head, site, shape, f"it returned {width} scores, and the site takes {site.per_class} for each class"
        )
    # a user's own module may score classes without a tensor that is saved
    is_torchs = all(type(each).__module__.startswith("torch.nn.") for each in part.modules())
    return 0 if is_bare and (is_torchs or width == site.in_features) else width // site.per_class


def _probe_side(head: nn.Module) -> int:
    """Sides of the map of zeros that scores are counted on: at least as long as what a head's convolutions look at."""
    layers = [each for each in head.modules() if isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    reaches = [step * (k - 1) + 1 for each in layers for k, step in zip(each.kernel_size, each.dilation, strict=True)]
    return max([_PROBE_SIDE, *reaches])


def scoring_part(head: nn.Module) -> nn.Module:
    """The part of a head that gives its scores: the head itself, or the one inside a branch."""
    body, site = getattr(head, "body", None), getattr(head, "site", None)
    return body.get_submodule(site) if isinstance(body, nn.Module) and isinstance(site, str) else head


_ACTIVATIONS: dict[type, str] = {
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "log_sigmoid",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
}
_UNCHANGED = (nn.Identity, nn.Flatten, nn.Dropout, Squeeze)
_WHOLE = "out"
"""Where torchvision's models for segmentation have their output, beside that of the auxiliary head."""
_VECTORS = 2


@dataclass(frozen=True)
class Outputs:
    """How the scores in what a model returns are read: which heads gave them, and what they mean.

    Attributes:
        heads: Names of the heads; empty where there is one.
        embeddings: Those that give what a head is given, and no scores.
        activations: The activation that the scores of a head went through, by its name; ``""`` for the one head.
        scores_in: What forward returned to the scores in it.
        multi_label: Whether every class is likely or not by itself.
    """

    heads: tuple[str, ...]
    embeddings: frozenset[str]
    activations: Mapping[str, str]
    scores_in: Callable[[Any], Any]
    multi_label: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> Outputs:
        """How what ``model`` returns is read.

        Example:
            >>> import zoo_core as zoo
            >>> heads = {"kind": zoo.mlp_head(3, activation="sigmoid"), "vector": None}
            >>> outputs = Outputs.of(zoo.swap_head(zoo.get("tiny/glyphnet"), heads))
            >>> outputs.heads, outputs.embeddings, outputs.activations["kind"]
            (('kind', 'vector'), frozenset({'vector'}), 'sigmoid')
        """
        bare, anatomy, several = unwrap(model), anatomy_of(model), metadata_of(model).multi_label
        site = bare.get_submodule(anatomy.main.path) if anatomy.main else None
        if not isinstance(site, Heads):
            return cls((), frozenset(), {"": _activation_of_scores(bare, anatomy, site)}, anatomy.scores_in, several)
        counts = classes_by_head(bare, anatomy.main)
        without = {
            name
            for name, head in site.items()
            if not counts.get(name, 1) or has_nothing_to_score_with(scoring_part(head))
        }
        activations = {name: _activation_of_scores(bare, anatomy, head, name) for name, head in site.items()}
        return cls(tuple(site), frozenset(without), activations, anatomy.scores_in, several)

    def read(self, returned: Any) -> Any:
        """The scores in what forward returned: a dict of them where there are several heads."""
        result = self.scores_in(returned)
        if not isinstance(result, Mapping) or _WHOLE not in result:
            return result
        is_by_head = result.keys() == {*self.heads} and not isinstance(result[_WHOLE], Mapping)
        return result if is_by_head else result[_WHOLE]

    def probabilities(self, scores: Tensor, head: str = "", *, each: bool = False) -> Tensor:
        """Scores ``[N, classes, ...]`` as probabilities, whatever activation they went through already.

        Args:
            scores: Of one head, in floating point.
            head: Its name; ``""`` for the one head.
            each: Whether every class is likely or not by itself, though nothing says so of the model.
        """
        activation = self.activations.get(head, "")
        if activation in ("sigmoid", "softmax"):
            return scores
        if activation in ("log_sigmoid", "log_softmax"):
            return scores.exp()
        is_alone = scores.ndim < _VECTORS or scores.shape[1] == 1  # softmax makes 1 of one logit, whatever it is
        return scores.sigmoid() if each or self.multi_label or is_alone else scores.softmax(1)


def _activation_of_scores(model: nn.Module, anatomy: Anatomy, head: nn.Module | None, name: str = "") -> str:
    """The activation that the scores of a head went through already, by its name; ``""`` for none that is known."""
    after = anatomy.classify
    if isinstance(after, PerHead | EachHead):
        return _activation_after(after.outputs[after.names.index(name)]) if name in after.names else ""
    if isinstance(after, WithOutput):
        return _activation_after(after.output)
    if isinstance(after, Chain):
        steps = [model.get_submodule(step) for step in after.steps if isinstance(step, str)]
        return _activation_after(steps)
    return "" if head is None or after is not None else _activation_after([scoring_part(head)])


def _activation_after(modules: Any) -> str:
    """The activation of scores that went through these modules: the last that changes numbers, if it is one."""
    last = next((each for each in reversed([*modules]) if not isinstance(each, _UNCHANGED)), None)
    return _activation_after(last) if type(last) is nn.Sequential else _ACTIVATIONS.get(type(last), "")
