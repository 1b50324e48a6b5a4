"""Freezing that holds: no gradients, and running statistics that stay where they are whatever ``train()`` says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from torch import nn

from zoo_core.errors import UsageError
from zoo_core.surgery.metadata import attach, knowledge_of
from zoo_core.surgery.select import select
from zoo_core.surgery.sharded import in_shards
from zoo_core.surgery.wrappers import renews_ddp
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

Model = TypeVar("Model", bound=nn.Module)


class _StayInEval:
    """Stands in for ``train`` on one frozen norm: whoever calls it, the norm stays in eval mode.

    An instance attribute, so that the norm keeps its class and its state-dict keys; a class and not a closure, so that
    deepcopy and pickle follow the norm they belong to.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    def __call__(self, mode: bool = True) -> nn.Module:  # noqa: ARG002, FBT001, FBT002 - the signature of nn.Module.train
        return nn.Module.train(self.norm, mode=False)


@strict_arguments
@renews_ddp
def freeze(
    model: Model,
    *what: str | Sequence[str],
    until: str | None = None,
    stages: int | None = None,
    first: int | None = None,
    last: int | None = None,
    norm: Literal["eval", "train"] = "eval",
) -> Model:
    """Stop training parts of ``model``: no gradients, and norms inside that keep their running statistics.

    Frozen norms stay in eval mode even after ``model.train()``, so their statistics do not drift. Classes and
    state-dict keys do not change, and :func:`unfreeze` undoes all of it. What is already frozen stays frozen. Whoever
    puts other modules in the place of frozen norms, such as ``SyncBatchNorm.convert_sync_batchnorm``, does so before
    freezing, or freezes again; :func:`drift` says when a norm that was frozen is no longer held.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        *what: ``"backbone"`` (all but the head; the default when nothing else is said), ``"head"``, ``"stem"``,
            ``"all"``, names of stages, module paths, slices of children such as ``"features[:6]"``, with ``"[:6]"``
            for the model's own, or glob patterns over tensor names such as ``"layer[12].*"``; or lists of these.
        until: A stage or module path: freeze everything before it.
        stages: Freeze the stem and that many stages.
        first: Of what is named, or of the whole model, only this many layers, counted from the input. A layer is a
            module that has parameters of its own.
        last: As ``first``, but counted from the output.
        norm: ``"train"`` lets frozen norms go on following ``model.train()``.

    Returns:
        The same model.

    Raises:
        UnknownPart: A name matches nothing; the message lists the stages.
        UsageError: A name, a number or ``norm`` is impossible, or nothing is left to freeze.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.freeze(zoo.get("resnet18", weights=None), until="layer4").train()
        >>> model.layer3[0].bn1.training, model.layer4[0].bn1.training
        (False, True)
    """
    if norm not in {"eval", "train"}:
        raise UsageError(f"norm cannot be {norm!r}", expected="'eval' or 'train'")
    names = select(model, what, default="backbone", until=until, stages=stages, first=first, last=last)
    bare = in_shards(model)
    for name, parameter in bare.named_parameters(remove_duplicate=False):
        if name in names:
            parameter.requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
    for module in _norms(bare, names).values():
        if norm == "eval":
            module.__dict__["train"] = _StayInEval(module)
            module.eval()
        else:
            _release(module, bare)
    _remember(bare, names)
    return model


@strict_arguments
@renews_ddp
def unfreeze(
    model: Model,
    *what: str | Sequence[str],
    until: str | None = None,
    stages: int | None = None,
    first: int | None = None,
    last: int | None = None,
) -> Model:
    """Train parts of ``model`` again: gradients, and norms inside that follow ``train()`` as before.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        *what: As for :func:`freeze`; ``"all"`` when nothing else is said.
        until: A stage or module path: unfreeze everything before it.
        stages: Unfreeze the stem and that many stages.
        first: Of what is named, or of the whole model, only this many layers, counted from the input.
        last: As ``first``, but counted from the output: ``unfreeze(model, "fc", last=2)`` is the end of a deep head.

    Returns:
        The same model.

    Raises:
        UnknownPart: A name matches nothing; the message lists the stages.
        UsageError: A number is impossible, or nothing is left to unfreeze.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None, freeze="backbone")
        >>> _ = zoo.unfreeze(model, "layer4", "layer3.1.*")
        >>> model.layer4[0].conv1.weight.requires_grad, model.layer3[0].conv1.weight.requires_grad
        (True, False)
    """
    names = select(model, what, default="all", until=until, stages=stages, first=first, last=last)
    bare = in_shards(model)
    for name, parameter in bare.named_parameters(remove_duplicate=False):
        if name in names:
            parameter.requires_grad_()
    for module in _norms(bare, names).values():
        _release(module, bare)
    _remember(bare, names)
    return model


def is_held(norm: nn.Module) -> bool:
    """Whether this norm is frozen, so that ``train()`` leaves it in eval mode."""
    return isinstance(norm.__dict__.get("train"), _StayInEval)


def held_norms(model: nn.Module) -> frozenset[str]:
    """Paths of the norms of ``model`` that are held in eval mode now."""
    return frozenset(path for path, module in model.named_modules() if is_held(module))


def _norms(model: nn.Module, names: set[str]) -> dict[str, nn.Module]:
    """Modules with running statistics among the named tensors: batch norm of any dimension, synchronised or not."""
    return {
        path: module
        for path, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
        and (f"{path}.running_mean" if path else "running_mean") in names
    }


def _remember(model: nn.Module, names: set[str]) -> None:
    """Write down which norms are held, so that one that somebody puts another module in the place of is missed."""
    known = knowledge_of(model)
    untouched = known.held - _norms(model, names).keys()
    attach(model, replace(known, held=untouched | held_norms(model)))


def _release(norm: nn.Module, model: nn.Module) -> None:
    if is_held(norm):
        del norm.__dict__["train"]
    norm.train(model.training)
