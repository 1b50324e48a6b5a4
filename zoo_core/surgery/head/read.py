"""What a model returns, read by head: which heads there are, which give scores, and what was done to the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from zoo_core.contract.chain import Chain
from zoo_core.surgery.head.classes import classes_by_head, scoring_part
from zoo_core.surgery.head.mlp import Squeeze
from zoo_core.surgery.head.multi_head import EachHead, Heads, PerHead
from zoo_core.surgery.head.output_activation import WithOutput
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from zoo_core.contract.anatomy import Anatomy

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
    """How what a model returns is read: which heads are in it, and what their scores mean.

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
            return cls((), frozenset(), {"": _activation(bare, anatomy, site)}, anatomy.scores_in, several)
        counts = classes_by_head(bare, anatomy.main)
        without = {
            name
            for name, head in site.items()
            if not counts.get(name, 1) or has_nothing_to_score_with(scoring_part(head))
        }
        activations = {name: _activation(bare, anatomy, head, name) for name, head in site.items()}
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


def _activation(model: nn.Module, anatomy: Anatomy, head: nn.Module | None, name: str = "") -> str:
    """The activation with which a model ends, by which the scores of a head are read; ``""`` for none that is known."""
    after = anatomy.classify
    if isinstance(after, PerHead | EachHead):
        return _last(after.outputs[after.names.index(name)]) if name in after.names else ""
    if isinstance(after, WithOutput):
        return _last(after.output)
    if isinstance(after, Chain):
        steps = [model.get_submodule(step) for step in after.steps if isinstance(step, str)]
        return _last(steps)
    return "" if head is None or after is not None else _last([scoring_part(head)])


def _last(modules: Any) -> str:
    """The activation that scores are read by: the last of these modules that changes numbers, if it is one."""
    last = next((each for each in reversed([*modules]) if not isinstance(each, _UNCHANGED)), None)
    return _last(last) if type(last) is nn.Sequential else _ACTIVATIONS.get(type(last), "")
