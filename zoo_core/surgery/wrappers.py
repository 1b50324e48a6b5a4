"""Keeping DistributedDataParallel right when surgery changes the parameters of the model inside it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from zoo_core.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def renewing(model: object, verb: str) -> Iterator[None]:
    """Leave a DDP wrapper around a model that changes inside the block as if it had been put there afterwards.

    DDP lists the parameters that require a gradient once, when it is made. What a verb adds or unfreezes later would
    never be averaged over the processes, and what it removes or freezes would be waited for. As when DDP is made, every
    process has to take part, and the parameters of rank 0 go to all: new ones are drawn differently everywhere.
    """
    wrappers = [*_ddps(model)]
    for wrapper in wrappers:
        _check(wrapper, verb)
    yield
    for wrapper in wrappers:
        _renew(wrapper)


def _ddps(model: object) -> Iterator[DistributedDataParallel]:
    """Every DDP wrapper around a model, the outermost first."""
    while True:
        if isinstance(model, DistributedDataParallel):
            yield model
            model = model.module
        elif isinstance(model, DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return


def _check(wrapper: DistributedDataParallel, verb: str) -> None:
    """Refuse to change a model inside a DDP wrapper that cannot be renewed."""
    cause = None
    if wrapper.process_group is not distributed.group.WORLD:
        cause = "it uses a process group of its own, and torch renews a DDP with the default one only"
    elif getattr(wrapper, "mixed_precision", None) is not None:
        cause = "its mixed precision keeps copies of the parameters as they were"
    elif getattr(wrapper, "_delay_all_reduce_params", None):
        cause = "it was given parameters by name whose reduction it delays"
    if cause:
        raise NotSupported(
            f"zoo.{verb} cannot change a model inside this DistributedDataParallel",
            cause=cause,
            done="nothing was changed",
            hint=f"zoo.{verb}(wrapper.module, ...), and wrap the module again",
        )


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
