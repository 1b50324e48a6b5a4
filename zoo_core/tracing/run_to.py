"""The features of a model that is no chain: its own forward, run to one module and stopped there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.extract import hooked
from zoo_core.surgery.features.forward import Variant, restore_forward, variant, without_hooks
from zoo_core.surgery.features.twin import replaced

if TYPE_CHECKING:
    from torch import nn


class _Stop(Exception):
    """Raised where a forward has run to the module, with what that takes or gives."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


@dataclass(frozen=True)
class RunTo:
    """The features of a model that is no chain: its own forward, run to one module.

    Attributes:
        path: The module.
        before: Whether what the module is given is meant, and not what it gives.
    """

    path: str
    before: bool = False

    def __call__(self, model: nn.Module, x: Any) -> Any:
        """Run the model as far as the module."""
        if not _has_module(model, self.path):  # a model that was cut before it, whose tap ends the pass
            body = replaced(model, {})
        elif self.before:
            body = hooked(model, {self.path: _no_op_hook})
            body.get_submodule(self.path).register_forward_pre_hook(_stop_before)
        else:
            body = replaced(model, {self.path: _ending(model.get_submodule(self.path))})
        restore_forward(body)  # one that was put together from the anatomy would come here again
        try:
            without_hooks(body, x)  # which ran where the model was entered
        except _Stop as stop:
            return stop.value
        raise NotSupported(
            f"the module {self.path!r} did not run",
            cause="forward takes another way than it took when the model was traced",
            hint="zoo.adopt(model, example=...) again, with an input and in the mode that you use",
        )


def _has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has the module that its forward is to run to."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _no_op_hook(_module: nn.Module, _args: object, _output: object) -> None:
    """A hook that does nothing: it makes a twin of the module to run to, which may be given others."""


def _stop_before(_module: nn.Module, args: tuple[Any, ...]) -> None:
    raise _Stop(args[0])


class _Ending(Variant):
    """Put before the class of the module to run to: forward stops when its taps and hooks have heard of it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise _Stop(super().__call__(*args, **kwargs))  # type: ignore[misc]  # the class after it is a module's


def _ending(module: nn.Module) -> nn.Module:
    twin: nn.Module = object.__new__(variant(type(module), _Ending, ()))
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin
