"""Freezing that holds, whatever ``train()`` says, and unfreezing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from torch import nn

from zoo_core.errors import UsageError
from zoo_core.surgery.adapters import kept_aside
from zoo_core.surgery.distributed import in_shards
from zoo_core.surgery.editing import editing
from zoo_core.surgery.fine_tuning.param_groups import add_to_optimizer
from zoo_core.surgery.hold import hold, release_to, stateful
from zoo_core.surgery.select import select
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from torch.optim import Optimizer


Model = TypeVar("Model", bound=nn.Module)


@strict_arguments
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

    Gradients that are there already are dropped, so that the next step of an optimizer leaves frozen parameters alone.
    Frozen norms, and other modules that change buffers in train mode, such as spectral norm and codebooks, stay in eval
    mode even after ``model.train()``; what recalibrates norms, such as ``update_bn`` and stochastic weight averaging,
    leaves theirs alone. Classes and state-dict keys do not change, and :func:`unfreeze` undoes all of it, as does a
    callback of another library that gives the parameters of a norm their gradients back. What is already frozen stays
    frozen. What ``SyncBatchNorm.convert_sync_batchnorm`` or timm's ``convert_splitbn_model`` puts in the place of norms
    in eval mode is frozen alike; :func:`zoo_core.drift` says when a norm that was frozen is no longer held.

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
    with editing(model, "freeze", adds_tensors=False) as edit:
        bare = in_shards(edit.model)
        for name, parameter in bare.named_parameters(remove_duplicate=False):
            if name in names:
                parameter.requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
                parameter.grad = None  # else the next step of an optimizer would still move it
        parts = _stateful(bare, names)
        for module in parts.values():
            if norm == "eval":
                hold(module, bare)
            else:
                release_to(module, bare)
        moving = edit.moving - parts.keys()
        edit.update(moving=moving if norm == "eval" else moving | parts.keys())
        edit.released |= parts.keys()
    return model


@strict_arguments
def unfreeze(
    model: Model,
    *what: str | Sequence[str],
    until: str | None = None,
    stages: int | None = None,
    first: int | None = None,
    last: int | None = None,
    optimizer: Optimizer | None = None,
) -> Model:
    """Train parts of ``model`` again: gradients, and norms inside that follow ``train()`` as before.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        *what: As for :func:`freeze`; ``"all"`` when nothing else is said.
        until: A stage or module path: unfreeze everything before it.
        stages: Unfreeze the stem and that many stages.
        first: Of what is named, or of the whole model, only this many layers, counted from the input.
        last: As ``first``, but counted from the output: ``unfreeze(model, "fc", last=2)`` is the end of a deep head.
        optimizer: Gets what it lacks of the trainable parameters, at the rate and decay that
            :func:`zoo_core.param_groups` gave to such parts, or at its own where it has a single rate. What torch's
            schedulers or a loop have made of the rates since holds for new ones too.

    Returns:
        The same model.

    Raises:
        UnknownPart: A name matches nothing; the message lists the stages.
        UsageError: A number is impossible, nothing is left to unfreeze, or the optimizer has several rates and was not
            made from ``zoo.param_groups``.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None, freeze="backbone")
        >>> _ = zoo.unfreeze(model, "layer4", "layer3.1.*")
        >>> model.layer4[0].conv1.weight.requires_grad, model.layer3[0].conv1.weight.requires_grad
        (True, False)
    """
    names = select(model, what, default="all", until=until, stages=stages, first=first, last=last)
    with editing(model, "unfreeze", adds_tensors=False) as edit:
        bare = in_shards(edit.model)
        names = names - kept_aside(bare)  # else DDP would wait for gradients that never come
        for name, parameter in bare.named_parameters(remove_duplicate=False):
            if name in names:
                parameter.requires_grad_()
        parts = _stateful(bare, names)
        for module in parts.values():
            release_to(module, bare)
        edit.update(moving=edit.moving - parts.keys())
        edit.released |= parts.keys()
    if optimizer is not None:
        add_to_optimizer(model, optimizer)
    return model


def _stateful(model: nn.Module, names: set[str]) -> dict[str, nn.Module]:
    """Modules to freeze or unfreeze that change buffers of their own in train mode, among the named tensors.

    One around other parts, which may train, is not among them.
    """
    result = {}
    for path, module in stateful(model):
        own = {f"{path}.{name}" for name, _ in module.named_buffers(recurse=False)}
        inside = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if (own & names and inside <= names | own) or (own & names and not list(module.children())):
            result[path] = module
    return result
