"""Building a model without computing numbers that a state dict is about to replace.

A constructor of a large model spends seconds drawing random weights that are then overwritten. Building on the meta
device avoids that, and is wrong for models that compute buffers from numbers. Here the constructor runs for real, on
the CPU; only the writing of values into the memory of registered parameters is left out. ``torch.empty`` does not touch
its memory, so what is never written costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

_HARMLESS = frozenset(
    {
        # end in "_" like the operations that write values, and write none
        *("requires_grad_", "detach_", "rename_", "share_memory_", "set_", "resize_", "resize_as_", "as_strided_"),
        *("squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_", "sparse_resize_", "pin_memory_"),
    }
)

_building = threading.local()


@contextmanager
def without_values() -> Iterator[None]:
    """Skip initialization inside the block: this thread leaves parameters that it builds as uninitialized memory.

    Every other tensor, buffers above all, gets its values as usual; so do the modules of other threads. A caller must
    give every parameter its values afterwards. Numbers that would have been drawn for parameters are not, so
    that the global random state is another one afterwards than after an ordinary build.

    Example:
        >>> import torch
        >>> with without_values():
        ...     layer = torch.nn.BatchNorm1d(3)
        >>> layer.running_var
        tensor([1., 1., 1.])
    """
    owned = _Owned()
    previous = getattr(_building, "owned", None)
    _building.owned = owned
    try:
        with _LeaveOut(owned):
            yield
    finally:
        _building.owned = previous


class _Owned:
    """The memory of registered parameters, whose initialization is skipped."""

    def __init__(self) -> None:
        # The storages are kept alive, so that no other tensor can come to lie where a dropped parameter was.
        self._storages: dict[int, torch.UntypedStorage] = {}

    def add(self, parameter: Tensor) -> None:
        if parameter.device.type == "cpu" and not nn.parameter.is_lazy(parameter):
            storage = parameter.untyped_storage()
            self._storages[storage.data_ptr()] = storage

    def has(self, tensor: object) -> bool:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu":  # type: ignore[attr-defined]
            return False
        return tensor.untyped_storage().data_ptr() in self._storages  # type: ignore[attr-defined]


class _LeaveOut(TorchFunctionMode):
    """Skips each initializing operation that would write into owned memory. A mode belongs to one thread."""

    def __init__(self, owned: _Owned) -> None:
        super().__init__()
        self._owned = owned

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _writes(func):
            target = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
            if self._owned.has(target):
                return target
        elif self._owned.has(kwargs.get("out")):
            return kwargs["out"]
        return func(*args, **kwargs)


@lru_cache(4096)
def _writes(func: Callable[..., Any]) -> bool:
    """Whether an operation that may be skipped writes values into its first argument."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in {"__index__", "__int__", "__invert__"})
    return name.endswith("_") and name not in _HARMLESS


def _note(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:  # noqa: ARG001 - torch's signature
    """Note a parameter as it is registered, so that its initialization is skipped."""
    owned: _Owned | None = getattr(_building, "owned", None)
    if owned is not None and parameter is not None:
        owned.add(parameter)


register_module_parameter_registration_hook(_note)


def _skipping(initialize: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An initializer that is skipped as a whole for owned tensors, as it draws again and looks at what it drew."""

    @wraps(initialize)
    def skipping(tensor: Tensor, *args: Any, **named: Any) -> Tensor:
        owned: _Owned | None = getattr(_building, "owned", None)
        return tensor if owned is not None and owned.has(tensor) else initialize(tensor, *args, **named)

    return skipping


if hasattr(nn.init, "_no_grad_trunc_normal_"):
    nn.init._no_grad_trunc_normal_ = _skipping(nn.init._no_grad_trunc_normal_)  # where torch looks it up
