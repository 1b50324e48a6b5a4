"""Models on several processes: parameters in shards, as ``fully_shard`` leaves them, and DistributedDataParallel.

Nothing here builds on the meta device, shards, and fills the shards. The mapping takes the place of that: ``zoo.get``
without ``device=`` gives tensors that are pages of the cached file, which the processes of a machine share, and each
``fully_shard`` on a stage reads that stage alone, to the device of the mesh, and keeps its part. So no process ever
holds a copy of its own of more than one whole stage, and surgery, which needs a model that it can run, comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.twin import twin_of
from zoo_core.surgery.metadata import inside_wrapper, unwrap

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_DDPS: WeakValueDictionary[int, DistributedDataParallel] = WeakValueDictionary()
"""All DDP wrappers that were made in this process: what is inside one does not know of it."""

_STALE: WeakKeyDictionary[DistributedDataParallel, tuple[str, RemovableHandle]] = WeakKeyDictionary()
"""Those whose model a verb has changed since they last ran to train: the verb, and the hook that renews them."""


def _note_ddp(parent: nn.Module, _name: str, _module: nn.Module | None) -> None:
    """Note a DDP wrapper as it takes the model that it is for."""
    if isinstance(parent, DistributedDataParallel):
        _DDPS[id(parent)] = parent


register_module_module_registration_hook(_note_ddp)


@contextmanager
def renewing(model: object, verb: str) -> Iterator[None]:
    """Leave a DDP wrapper around a model that changes inside the block as if it had been put there afterwards.

    DDP lists the parameters that require a gradient once, when it is made. What a verb adds or unfreezes later would
    never be averaged over the processes, and what it removes or freezes would be waited for. As when DDP is made, every
    process has to take part, and the parameters of rank 0 go to all: new ones are drawn differently everywhere.

    A wrapper around what the verb was given, as ``wrapper.module``, is renewed when it trains again. It may never, as
    where rank 0 alone edits and saves the model after training, and then nothing has to wait for the other processes.
    """
    wrappers = [*_ddps(model)]
    for wrapper in wrappers:
        if cause := _why_not_renewed(wrapper):
            raise NotSupported(
                f"zoo.{verb} cannot change a model inside this DistributedDataParallel",
                cause=cause,
                done="nothing was changed",
                hint=f"zoo.{verb}(wrapper.module, ...), and wrap the module again",
            )
    yield
    for wrapper in wrappers:
        _renew(wrapper)
    for wrapper in _ddps_elsewhere(model, wrappers):
        if wrapper not in _STALE:
            _STALE[wrapper] = verb, wrapper.register_forward_pre_hook(_renew_stale)


def _ddps(model: object) -> Iterator[DistributedDataParallel]:
    """Every DDP wrapper around a model, the outermost first."""
    while model is not None:
        if isinstance(model, DistributedDataParallel):
            yield model
        model = inside_wrapper(model)


def _ddps_elsewhere(model: object, known: list[DistributedDataParallel]) -> list[DistributedDataParallel]:
    """The DDP wrappers that a model is in and that are not among those known."""
    while (inner := inside_wrapper(model)) is not None:
        model = inner
    made = [each() for each in _DDPS.valuerefs()]
    return [each for each in made if each is not None and each not in known and model in [*each.modules()]]


def _renew_stale(wrapper: DistributedDataParallel, _inputs: object) -> None:
    """Renew a DDP wrapper whose model was changed, before it runs to train."""
    if not torch.is_grad_enabled() or wrapper not in _STALE:  # a copy has listed its parameters when it was made
        return
    verb, handle = _STALE.pop(wrapper)
    handle.remove()
    if cause := _why_not_renewed(wrapper):
        raise NotSupported(
            f"this DistributedDataParallel cannot train the model that zoo.{verb} has changed",
            cause=cause,
            hint="model = wrapper.module; del wrapper; DistributedDataParallel(model, ...)",
        )
    _renew(wrapper)


def _why_not_renewed(wrapper: DistributedDataParallel) -> str | None:
    """Why a DDP wrapper cannot be renewed, None where it can."""
    if wrapper.process_group is not distributed.group.WORLD:
        return "it uses a process group of its own, and torch renews a DDP with the default one only"
    if getattr(wrapper, "mixed_precision", None) is not None:
        return "its mixed precision keeps copies of the parameters as they were"
    if getattr(wrapper, "_delay_all_reduce_params", None):
        return "it was given parameters by name whose reduction it delays"
    return None


def _renew(wrapper: DistributedDataParallel) -> None:
    """Have a DDP wrapper list the parameters again, with all that it was told when it was made."""
    parameters = {
        name: each for name, each in wrapper.module.named_parameters() if name not in wrapper.parameters_to_ignore
    }
    if not any(each.requires_grad for each in parameters.values()):
        return  # there is nothing to average until something is unfrozen, and a DDP of nothing is an error
    for each in parameters.values():
        value = each.detach().contiguous()
        distributed.broadcast(value, group_src=0, group=wrapper.process_group)
        each.detach().copy_(value)
    hooks = list(getattr(wrapper, "_comm_hooks", ()))
    # How torch brings a DDP back from a pickle: a new reducer, and every setting as it was.
    wrapper.__setstate__(wrapper.__getstate__())  # type: ignore[no-untyped-call]  # torch has not typed them
    wrapper._comm_hooks = []  # noqa: SLF001 - registering them with the new reducer lists them again
    for hook, state in hooks:
        wrapper.register_comm_hook(state, hook)


P = ParamSpec("P")
R = TypeVar("R")


def is_sharded(model: nn.Module) -> bool:
    """Whether ``model`` is sharded: several processes hold its tensors together.

    Example:
        >>> is_sharded(nn.Linear(2, 2))
        False
    """
    # a model can only hold what was imported already, and torch imports this on first use
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is None:
        return False
    bare = unwrap(model)
    return bool(_fsdp_modules(bare)) or any(isinstance(each, tensors.DTensor) for each in bare.parameters())


def in_shards(model: nn.Module) -> nn.Module:
    """The model without wrappers, and sharded again where FSDP put it together for a forward pass.

    Until then its parameters are other objects, which no optimizer should be given and no code should freeze.
    """
    bare = unwrap(model)
    for module in _fsdp_modules(bare):
        module.reshard()
    return bare


def _fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules inside ``model`` that FSDP has sharded."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [each for each in model.modules() if isinstance(each, fsdp.FSDPModule)] if fsdp else []


def refuse_sharded(model: nn.Module, verb: str) -> None:
    """Raise NotSupported where ``model`` is sharded: several processes hold its tensors together.

    What a verb adds would lie whole on every process, drawn differently on each, and nothing would average its
    gradients.
    """
    if is_sharded(model):
        raise NotSupported(
            f"zoo.{verb} cannot change a model that is sharded",
            cause="what it puts in would lie whole on every process, and nothing would average its gradients",
            done="nothing was changed",
            hint=f"zoo.{verb}(model, ...) first, then fully_shard(model)",
        )


def gathered(model: nn.Module, *, keep: bool) -> nn.Module:
    """A twin of a sharded model with whole tensors on the CPU, and of the class that the model had before.

    Every process that holds shards has to call it, since each gives its part. One tensor at a time is whole.

    Args:
        model: Left as it is.
        keep: Whether this process gets the whole tensors; otherwise the twin keeps the shards.
    """
    return _gathered(in_shards(model), {}, keep=keep)


def _gathered(module: nn.Module, seen: dict[int, nn.Parameter], *, keep: bool) -> nn.Module:
    """A twin of a sharded module with whole tensors, and so of all modules inside it."""
    twin = twin_of(module)
    twin.__class__ = _unsharded_class(module)
    for table in ("_parameters", "_buffers"):
        own: dict[str, Tensor | None] = module.__dict__[table]
        twin.__dict__[table] = {name: _whole_of_shards(tensor, seen, keep=keep) for name, tensor in own.items()}
    twin.__dict__["_modules"] = {
        name: child and _gathered(child, seen, keep=keep)
        for name, child in module._modules.items()  # noqa: SLF001 - named_children() leaves out what is None
    }
    return twin


def _whole_of_shards(tensor: Tensor | None, seen: dict[int, Any], *, keep: bool) -> Tensor | None:
    """Gather one tensor of a distributed model from the processes that have its shards, once for all its names."""
    if tensor is None or not hasattr(tensor, "full_tensor"):
        return tensor
    if id(tensor) not in seen:
        full = tensor.full_tensor()
        kept = full.detach().cpu() if keep else tensor.detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        seen[id(tensor)] = nn.Parameter(kept, requires_grad=tensor.requires_grad) if is_parameter else kept
    result: Tensor = seen[id(tensor)]
    return result


def _unsharded_class(module: nn.Module) -> type[nn.Module]:
    """The class that ``fully_shard`` derived the module's present one from."""
    kinds = type(module).__mro__
    is_sharded_root = len(kinds) > 2 and kinds[1].__name__ == "FSDPModule"  # noqa: PLR2004 - the derived, the mixin, the own
    return kinds[2] if is_sharded_root else type(module)
