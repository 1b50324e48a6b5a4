"""Freezing that holds, whatever ``train()`` says, and ``zoo.drift``: whether what is frozen stayed where it was."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import nn

from zoo_core.errors import UsageError, ZooWarning
from zoo_core.surgery.adapters import kept_aside, plain_names
from zoo_core.surgery.distributed import in_shards
from zoo_core.surgery.editing import editing
from zoo_core.surgery.fine_tuning.param_groups import add_to_optimizer
from zoo_core.surgery.hold import hold, is_held, release, stateful
from zoo_core.surgery.metadata import is_known, metadata_of
from zoo_core.surgery.select import select
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
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
    frozen. What ``SyncBatchNorm.convert_sync_batchnorm`` puts in the place of frozen norms is frozen alike;
    :func:`drift` says when a norm that was frozen is no longer held.

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
                _release(module, bare)
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
            _release(module, bare)
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


def _release(module: nn.Module, model: nn.Module) -> None:
    """Unfreeze the mode of a module: let it follow ``train()`` again, in the mode that its model is in."""
    release(module)
    module.train(model.training)


@strict_arguments
def drift(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """Whether freezing held: which frozen tensors of ``model`` are no longer what they were, and by how much.

    Frozen are the parameters without gradients, and the buffers of the modules they belong to: running statistics,
    vectors of spectral norm, codebooks. An optimizer that moves them, a norm that was put back into train mode, or an
    average of weights all show up here. So does a norm that took the place of a frozen one, as ``SyncBatchNorm``
    conversion puts it: nothing holds it, and a :class:`ZooWarning` says so even before it has moved.

    Args:
        model: Any module; DDP and ``torch.compile`` wrappers are looked through.
        before: Tensor name to what it was: a deep copy of ``model.state_dict()``, of the model itself or of a wrapper
            around it, or the state dict the model came from. Frozen tensors that it lacks are not compared.

    Returns:
        Name of each frozen tensor that moved to the largest absolute difference; empty when all held. NaN or another
        shape count as infinite.

    Raises:
        UsageError: Nothing is frozen, or ``before`` has none of the frozen tensors, or is not a copy of them.

    Example:
        >>> import copy, torch, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", weights=None, freeze="backbone").train()
        >>> before = copy.deepcopy(model.state_dict())
        >>> _ = model(torch.randn(8, 1, 32, 32))
        >>> zoo.drift(model, before)
        {}
    """
    if not isinstance(before, Mapping):
        raise UsageError(
            f"a {type(before).__name__} is no state dict to compare with",
            hint="before = copy.deepcopy(model.state_dict()) once parts are frozen",
        )
    bare = in_shards(model)
    loose = _loose_norms(bare)
    if loose:
        warnings.warn(
            f"{len(loose)} norms that were frozen are no longer held in eval mode, such as {min(loose)!r}: "
            "other modules stand in their places; zoo.freeze(model, ...) holds those too",
            ZooWarning,
            stacklevel=3,  # past strict_arguments
        )
    frozen = _frozen_tensors(bare)
    before = _as_inside(model, bare, before, frozen)
    compared = {name: tensor for name, tensor in frozen.items() if name in before}
    if not compared:
        raise UsageError(
            "there is nothing to compare",
            expected="tensors that are frozen now, under their names in the state dict",
            got=f"{len(frozen)} frozen tensors, none of which is among the {len(before)} given",
            hint="freeze first, then keep copy.deepcopy(model.state_dict())" if frozen else "zoo.freeze(model)",
        )
    if any(_is_same_memory(tensor, before[name]) for name, tensor in compared.items()):
        raise UsageError(
            "what was given for before are the model's own tensors, which can never differ from themselves",
            hint="copy.deepcopy(model.state_dict()) keeps what they were",
        )
    moved = {name: _distance(tensor, before[name]) for name, tensor in compared.items()}
    return {name: distance for name, distance in moved.items() if distance > 0}


def _as_inside(
    model: nn.Module, bare: nn.Module, before: Mapping[str, Tensor], frozen: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """What frozen tensors were, by the names that the model inside a wrapper has for them now.

    A state dict of the wrapper has its prefix, and one from before PEFT put layers around others has shorter names.
    """
    path = next((path for path, each in model.named_modules() if each is bare), "")
    inside = {name.removeprefix(f"{path}."): each for name, each in before.items() if name.startswith(f"{path}.")}
    given = inside if path and inside else before
    short = {name: plain for name, plain in plain_names(bare, frozen).items() if name not in given and plain in given}
    return {**given, **{name: given[plain] for name, plain in short.items()}}


def _frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What freezing keeps as it was, by name: parameters without gradients, and buffers of frozen parts."""
    known = metadata_of(model) if is_known(model) else None
    held, moving = (known.held, known.moving) if known else (frozenset(), frozenset())
    result: dict[str, Tensor] = {
        name: parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    for path, module in model.named_modules():
        if is_held(module) or path in held or (path not in moving and _is_frozen(model, path, module)):
            result |= _frozen_buffers(path, module)
    return result


def _is_frozen(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether the buffers of a module are frozen: its parameters, or those nearest around it, need no gradient."""
    while True:
        parameters = [each.requires_grad for each in module.parameters()]
        if parameters or not path:
            return bool(parameters) and not any(parameters)
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)


def _loose_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Norms in the places of frozen ones that are not frozen themselves: nothing holds them, so that they drift."""
    held = metadata_of(model).held if is_known(model) else frozenset()
    return {
        path: module
        for path, module in model.named_modules()
        if path in held and getattr(module, "running_mean", None) is not None and not is_held(module)
    }


def _frozen_buffers(path: str, module: nn.Module) -> dict[str, Tensor]:
    """The buffers of a frozen module, by the names under which ``zoo.drift`` reports them."""
    return {f"{path}.{name}" if path else name: tensor for name, tensor in module.named_buffers(recurse=False)}


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether a frozen tensor shares memory with the copy from before, so that no drift can show between them."""
    return a.numel() > 0 and a.device == b.device and a.data_ptr() == b.data_ptr() != 0


def _distance(now: Tensor, then: Tensor) -> float:
    """How far a frozen tensor has come from what it was: the largest difference, infinite for NaN or another shape."""
    if now.shape != then.shape:
        return float("inf")
    then = then.detach().to(now.device)
    if torch.equal(now.detach(), then):
        return 0.0
    largest = (now.detach().double() - then.double()).abs().max().item()
    return float("inf") if largest != largest else largest  # noqa: PLR0124 - only NaN differs from itself
