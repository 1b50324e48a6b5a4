"""A forward of its own for one model, put together from its anatomy, where the library's no longer fits."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zoo_core.contract.anatomy import Anatomy


class Recomposed:
    """Stands in for ``forward`` on one model: features, pool and head, as its anatomy says.

    The bound method lies in the model's own attributes, so that the model keeps its class and its state-dict keys. It
    belongs to a class of this module and not to a closure, so that deepcopy and pickle follow the model, and it is a
    method and not a callable object, so that ``torch.export`` finds its signature.

    Args:
        model: Whose forward it is.
        anatomy: Its parts; ``features`` must be there, while ``pool``, ``classify`` and heads may be missing, and
            ``scores`` is None, since nothing but scores is returned.
        scores: ``Anatomy.scores`` for the library's own forward.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, scores: str | Callable[[Any], Any] | None) -> None:
        self.model = model
        self.anatomy = anatomy
        self.head = anatomy.main.path if anatomy.main else None
        self.before = library_forward(model)
        self.scores = scores

    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a dict of tensors where there are several heads
        """Images to what the head gives, or to the features of a model without one; never to an output object."""
        found = self.anatomy.features(self.model, x) if self.anatomy.features else x
        if self.anatomy.pool:
            found = self.anatomy.pool(self.model, found)
        if self.anatomy.classify:
            return self.anatomy.classify(self.model, found)
        return found if self.head is None else self.model.get_submodule(self.head)(found)

    def on(self, twin: nn.Module) -> MethodType:
        """The same forward for a twin of the model."""
        other = Recomposed.__new__(Recomposed)
        other.__dict__.update(self.__dict__, model=twin)
        return MethodType(Recomposed.forward, other)


def recompose(model: nn.Module, anatomy: Anatomy, scores: str | Callable[[Any], Any] | None = None) -> None:
    """Make ``model`` run as this anatomy says, whatever the forward of its class does.

    Args:
        model: Changed in place.
        anatomy: Its parts from now on.
        scores: Where the library's own forward has its scores, for the day it is restored.
    """
    model.__dict__["forward"] = MethodType(Recomposed.forward, Recomposed(model, anatomy, scores))


def restore_forward(model: nn.Module) -> None:
    """Make ``model`` run as its library made it; nothing happens where it does already."""
    if is_recomposed(model):
        before = library_forward(model)
        del model.__dict__["forward"]
        if before is not None:
            model.__dict__["forward"] = before


def is_recomposed(model: nn.Module) -> bool:
    """Whether the forward of ``model`` was put together here."""
    return isinstance(getattr(model.__dict__.get("forward"), "__self__", None), Recomposed)


def library_scores(model: nn.Module, anatomy: Anatomy) -> str | Callable[[Any], Any] | None:
    """Where the scores are in what the library's own forward returns, whatever stands in for it now."""
    scores: str | Callable[[Any], Any] | None = anatomy.scores
    return model.__dict__["forward"].__self__.scores if is_recomposed(model) else scores


def library_forward(model: nn.Module) -> Any:  # noqa: ANN401 - whatever the library put there
    """The forward that the library bound to this one instance; None where the class has it."""
    now = model.__dict__.get("forward")
    return now.__self__.before if now is not None and is_recomposed(model) else now


def run_on(model: nn.Module, x: Any, example: Any = None) -> Any:  # noqa: ANN401 - whatever forward takes and returns
    """What ``model`` returns for ``x``: several arguments or arguments by name, where its example was such."""
    if isinstance(example, dict) and isinstance(x, dict):
        return model(**x)
    return model(*x) if type(example) is tuple and isinstance(x, tuple) else model(x)
