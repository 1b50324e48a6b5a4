"""``zoo.drift``: whether what is frozen stayed where it was, and how far it came."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError, ZooWarning
from zoo_core.surgery.adapters import plain_names
from zoo_core.surgery.distributed import in_shards
from zoo_core.surgery.hold import is_held
from zoo_core.surgery.metadata import is_known, metadata_of
from zoo_core.utils.arguments import strict_arguments


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
    loose = _drifting_norms(bare)
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
    """What frozen tensors were before they could drift, by the names that the model inside a wrapper has for them now.

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
            own = module.named_buffers(recurse=False)
            result |= {f"{path}.{name}" if path else name: tensor for name, tensor in own}
    return result


def _is_frozen(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether the buffers of a module may not drift: its parameters, or those nearest around it, need no gradient."""
    while True:
        parameters = [each.requires_grad for each in module.parameters()]
        if parameters or not path:
            return bool(parameters) and not any(parameters)
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)


def _drifting_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Norms that drift in the places of frozen ones: they are not frozen themselves, so that nothing holds them."""
    held = metadata_of(model).held if is_known(model) else frozenset()
    return {
        path: module
        for path, module in model.named_modules()
        if path in held and getattr(module, "running_mean", None) is not None and not is_held(module)
    }


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether a frozen tensor shares memory with the copy from before, so that no drift can show between them."""
    return a.numel() > 0 and a.device == b.device and a.data_ptr() == b.data_ptr() != 0


def _distance(now: Tensor, then: Tensor) -> float:
    """How far a frozen tensor drifted: the largest difference from before, infinite for NaN or another shape."""
    if now.shape != then.shape:
        return float("inf")
    then = then.detach().to(now.device)
    if torch.equal(now.detach(), then):
        return 0.0
    largest = (now.detach().double() - then.double()).abs().max().item()
    return float("inf") if largest != largest else largest  # noqa: PLR0124 - only NaN differs from itself
