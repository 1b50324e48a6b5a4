"""Trying a model with another number of input channels on a copy, before it is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.forward import arguments
from zoo_core.surgery.noise import placed
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNAL = 3
"""Axes of ``[N, C, L]``."""


def proven_on(model: nn.Module, example: Any, old: int, new: int, adapt: Callable[[nn.Module], None]) -> Any:
    """The example of a traced model with other channels, on which an adapted copy of the model has run.

    It runs without values, or with them where the model does not run without. A model that runs in neither way, as one
    that takes no batch of one, is believed.

    Args:
        model: As it is before; left so.
        example: What it takes: each image, clip or signal of ``old`` channels gets ``new`` ones.
        old: Input channels that it has.
        new: Those that it is to have.
        adapt: Adapts a copy.

    Raises:
        NotSupported: The copy does not run: a layer or tensor beside the stem is made for the old channels too.
    """
    wider = tree_map(lambda each: _with_channels(each, old, new), example)
    for copied in (without_values, duplicate):
        twin = copied(model)
        try:
            _run(twin, example)
        except Exception:  # noqa: BLE001, S112 - the model's own code, which may need values
            continue
        adapt(twin)
        try:
            _run(twin, wider)
        except Exception as error:
            place = _where(twin, error)
            raise NotSupported(
                f"the input of this {type(model).__name__} cannot have {new} channels",
                got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
                done="nothing was changed",
                cause=f"with a stem for {new} channels its forward fails in {place}: something there is made for {old} "
                "channels too, and was not found to be of the stem",
                hint="build it for that many channels, and zoo.load_partial gives it the tensors that fit",
            ) from error
        break
    return wider


def _with_channels(value: Any, old: int, new: int) -> Any:
    """A part of the example of a model, with other channels where it has those of the images."""
    is_image = isinstance(value, Tensor) and value.dim() >= _SIGNAL and value.shape[1] == old
    return value[:, :1].expand(-1, new, *value.shape[2:]).clone() if is_image else value


def _run(model: nn.Module, x: Any) -> None:
    """Run a copy of the model to adapt, on its own device."""
    args, kwargs = arguments(model, placed(model, x))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model), MetaShapes():
        model(*args, **kwargs)


def _where(model: nn.Module, error: BaseException) -> str:
    """Path of the innermost module of a copy that was running when it failed, in quotes."""
    paths = {id(module): path for path, module in model.named_modules()}
    trace, result = error.__traceback__, ""
    while trace is not None:
        result = paths.get(id(trace.tb_frame.f_locals.get("self")), result)
        trace = trace.tb_next
    return repr(result) if result else f"the forward of {type(model).__name__} itself"
