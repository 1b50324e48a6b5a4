"""A forward of its own for one model, put together from its anatomy, where the library's no longer fits."""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from zoo_core.surgery.features.variant import Variant, library_class, variant, without

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zoo_core.contract.anatomy import Anatomy


_PLAN, _LIBRARYS = "_zoo_plan", "_zoo_library_forward"


@dataclass(frozen=True)
class Plan:
    """What the forward of one model is put together from.

    Attributes:
        anatomy: Its parts; ``features`` must be there, while ``pool``, ``classify`` and heads may be missing, and
            ``scores`` is None, since nothing but scores is returned.
        scores: ``Anatomy.scores`` for the library's own forward.
    """

    anatomy: Anatomy
    scores: str | Callable[[Any], Any] | None


class Recomposed(Variant):
    """Put before the class of a model whose forward is features, pool and head, as its plan says.

    A class and not an attribute of the instance, so that FX, quantization, replicas and copies run this forward too; of
    the same name, and a subclass of the library's.
    """

    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a dict of tensors where there are several heads
        """Images to what the head gives, or to the features of a model without one; never to an output object."""
        plan: Plan = self.__dict__[_PLAN]
        anatomy, model = plan.anatomy, cast("nn.Module", self)
        features = anatomy.features(model, x) if anatomy.features else x
        pooled = anatomy.pool(model, features) if anatomy.pool else features
        if anatomy.classify:
            return anatomy.classify(model, pooled)
        return pooled if anatomy.main is None else model.get_submodule(anatomy.main.path)(pooled)


def recompose(model: nn.Module, anatomy: Anatomy, scores: str | Callable[[Any], Any] | None = None) -> None:
    """Make ``model`` run as this anatomy says, whatever the forward of its class does.

    Args:
        model: Changed in place.
        anatomy: Its parts from now on.
        scores: Where the library's own forward has its scores, for the day it is restored.
    """
    restore_forward(model)
    if "forward" in model.__dict__:  # some libraries bind it to each instance
        model.__dict__[_LIBRARYS] = model.__dict__.pop("forward")
    model.__dict__[_PLAN] = Plan(anatomy, scores)
    model.__class__ = variant(type(model), Recomposed, ())


def restore_forward(model: nn.Module) -> None:
    """Make ``model`` run as its library made it; nothing happens where it does already."""
    if is_recomposed(model):
        model.__class__ = without(type(model), Recomposed)
        del model.__dict__[_PLAN]
        if _LIBRARYS in model.__dict__:
            model.__dict__["forward"] = model.__dict__.pop(_LIBRARYS)


def is_recomposed(model: nn.Module) -> bool:
    """Whether the forward of ``model`` was put together here."""
    return isinstance(model, Recomposed)


def library_scores(model: nn.Module, anatomy: Anatomy) -> str | Callable[[Any], Any] | None:
    """Where the scores are in what the library's own forward returns, whatever stands in for it now."""
    scores: str | Callable[[Any], Any] | None = anatomy.scores
    return model.__dict__[_PLAN].scores if is_recomposed(model) else scores


def library_forward(model: nn.Module) -> Callable[..., Any]:
    """The forward of the library, whatever is in its place."""
    own: Callable[..., Any] | None = model.__dict__.get(_LIBRARYS)
    return own or MethodType(library_class(type(model)).forward, model)


def run_on(model: nn.Module, x: Any, example: Any = None) -> Any:  # noqa: ANN401 - whatever forward takes and returns
    """What ``model`` returns for ``x``: several arguments or arguments by name, where its example was such."""
    if isinstance(example, dict) and isinstance(x, dict):
        return model(**x)
    return model(*x) if type(example) is tuple and isinstance(x, tuple) else model(x)
