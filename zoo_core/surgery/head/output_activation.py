"""Activation and squeeze after the output of a model whose forward goes on computing after the head site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.errors import NotSupported
from zoo_core.surgery.head.mlp import MLPHead

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo_core.contract.anatomy import Head


@dataclass(frozen=True)
class WithOutput:
    """What a model does with the scores of its head site, and then the activation and squeeze after its output.

    Attributes:
        whole: What the model does with the scores, as its family gives it.
        output: Run on the output, or on each of them where the model returns a dict.
    """

    whole: Callable[[Any, Any], Any]
    output: tuple[nn.Module, ...]

    def __call__(self, model: nn.Module, pooled: Any) -> Any:
        """What the head sites are given to what the model returns."""
        result = self.whole(model, pooled)
        if isinstance(result, Mapping):
            return {name: self._finish(scores) for name, scores in result.items()}
        return self._finish(result)

    def _finish(self, scores: Tensor) -> Tensor:
        for module in self.output:
            scores = module.forward(scores)  # no call: FX takes only calls of modules that the model holds
        return scores


def with_output(after: Callable[[Any, Any], Any] | None, head: object) -> Callable[[Any, Any], Any] | None:
    """What follows a head site, ``after``, with the activation and squeeze of ``head`` at the end of the output."""
    return after if after is None or not output_of(head) else WithOutput(after, output_of(head))


def output_of(head: object) -> tuple[nn.Module, ...]:
    """The activation and squeeze after the scores of one head; empty for all but a ``zoo.mlp_head`` that says so."""
    return head.output if isinstance(head, MLPHead) else ()


def scores_only(head: Any) -> Any:
    """``head`` without the activation and squeeze after its scores, and so each of several heads."""
    if isinstance(head, Mapping):
        return {name: scores_only(each) for name, each in head.items()}
    return head.scores if isinstance(head, MLPHead) else head


def check_output(head: object, sites: tuple[Head, ...]) -> None:
    """Raise NotSupported where an activation would come before what a model's own forward does with its scores."""
    heads = head.values() if isinstance(head, Mapping) else (head,)
    between = [site for site in sites if site.role not in {"main", "aux"} or site.per_class != 1]
    if between and any(output_of(each) for each in heads):
        raise NotSupported(
            "this model cannot have an activation or a squeeze after its output",
            cause="its own forward goes on computing with the scores of "
            + ", ".join(f"{site.path} ({site.role})" for site in between),
            hint="leave activation and squeeze out of zoo.mlp_head, and apply them to what the model returns",
        )
