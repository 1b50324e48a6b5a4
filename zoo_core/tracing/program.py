"""A piece of a forward pass as it was recorded: modules and functions, run again on a model with the same parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import functional
from torch.utils._pytree import tree_iter, tree_map

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.extract import hooked
from zoo_core.surgery.features.forward import Variant, restore_forward, variant
from zoo_core.surgery.features.split import replaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass(frozen=True)
class Value:
    """A tensor of the piece: what went into it, number 0, or what a step gave."""

    number: int


@dataclass(frozen=True)
class Own:
    """A parameter or buffer of the model itself, by name."""

    name: str


@dataclass(frozen=True)
class Size:
    """The size of an axis of a tensor of the piece, or the product of several, times a number."""

    value: int
    axes: tuple[int, ...]
    times: int = 1


@dataclass(frozen=True)
class Training:
    """Whether the model is in train mode."""


@dataclass(frozen=True)
class Step:
    """One step of a piece.

    Attributes:
        run: Path of a module, or a function.
        args: What it is given, with the records above in the place of what differs from run to run.
        kwargs: The same by name.
        output: What it gives, with a :class:`Value` for each tensor that counts.
    """

    run: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Functional:
    """A function of ``torch.nn.functional`` that pickle cannot find by itself, such as ``max_pool2d``."""

    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the function takes and gives
        """Run it."""
        return getattr(functional, self.__name__)(*args, **kwargs)


@dataclass(frozen=True)
class Apply:
    """A function of one tensor: a recorded function with the other things it was given.

    Attributes:
        step: With number 0 for the tensor.
    """

    step: Step

    @property
    def __name__(self) -> str:
        """Name of the function."""
        return getattr(self.step.run, "__name__", "function")

    def __repr__(self) -> str:
        return self.__name__

    def __call__(self, x: Any) -> Any:  # noqa: ANN401 - what the function takes
        """Run the function."""
        values = {0: x}
        args, kwargs = (_filled(each, None, values) for each in (self.step.args, self.step.kwargs))
        return self.step.run(*args, **kwargs)  # type: ignore[operator]  # a function, not a path


@dataclass(frozen=True)
class Program:
    """A piece of a forward pass: ``(model, x)`` to what its last step gives.

    Attributes:
        steps: In the order they run.
        output: What it gives.
        several: How many tensors ``x`` is a tuple of; 0 where it is one tensor.
    """

    steps: tuple[Step, ...]
    output: Any
    several: int = 0

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of the model's own parameters that it uses."""
        records = (each for step in self.steps for each in tree_iter((step.args, step.kwargs)))
        return tuple(dict.fromkeys(each.name for each in records if isinstance(each, Own)))

    @property
    def paths(self) -> list[str]:
        """Paths of the modules that it calls."""
        return [step.run for step in self.steps if isinstance(step.run, str)]

    def __call__(self, model: nn.Module, x: Any) -> Any:  # noqa: ANN401 - one tensor, or several
        """Run the steps."""
        values: dict[int, Any] = dict(enumerate(x)) if self.several else {0: x}
        for step in self.steps:
            args, kwargs = (_filled(each, model, values) for each in (step.args, step.kwargs))
            run = model.get_submodule(step.run) if isinstance(step.run, str) else step.run
            _keep(step.output, run(*args, **kwargs), values, args)
        return _filled(self.output, model, values)


def _filled(record: Any, model: Any, values: dict[int, Any]) -> Any:  # noqa: ANN401 - any nest of records
    def fill(each: object) -> object:
        if isinstance(each, Value):
            return values[each.number]
        if isinstance(each, Own):
            path, _, name = each.name.rpartition(".")
            return getattr(model.get_submodule(path), name)
        if isinstance(each, Size):
            size = each.times
            for axis in each.axes:
                size *= values[each.value].shape[axis]
            return size
        return model.training if isinstance(each, Training) else each

    return tree_map(fill, record)


def _keep(record: Any, result: Any, values: dict[int, Any], args: Any) -> None:  # noqa: ANN401 - nests of any kind
    """Give the tensors of ``result`` the numbers they have in ``record``."""
    if isinstance(record, Value):
        values[record.number] = args[0] if result is None else result  # as item assignment gives nothing
    elif isinstance(record, dict):
        for name, each in record.items():
            _keep(each, result[name] if isinstance(result, dict) else getattr(result, name), values, args)
    elif isinstance(record, list | tuple):
        for each, part in zip(record, result, strict=False):
            _keep(each, part, values, args)


def run(model: nn.Module, x: Any) -> Any:  # noqa: ANN401 - whatever forward takes and returns
    """``model`` on an example: a tuple is several arguments, a dict is arguments by name."""
    args, kwargs = arguments(x)
    return model(*args, **kwargs)


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401 - whatever forward takes
    """An example as arguments and arguments by name."""
    if isinstance(x, dict) and all(isinstance(name, str) for name in x):
        return (), x
    return (x, {}) if type(x) is tuple else ((x,), {})


@dataclass(frozen=True)
class Item:
    """Where a tensor is in what forward returns: names and numbers, one after another."""

    key: tuple[Any, ...]

    def __call__(self, output: Any) -> Any:  # noqa: ANN401 - any output object
        """The tensor."""
        for step in self.key:
            if isinstance(step, str) and not isinstance(output, dict) and not hasattr(output, "keys"):
                output = getattr(output, step)
            else:
                output = output[step]
        return output


class _Stop(Exception):
    """Raised where a pass has what it is for."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


@dataclass(frozen=True)
class RunTo:
    """The features of a model that is no chain: its own forward, as far as one module.

    Attributes:
        path: The module.
        before: Whether what the module is given is meant, and not what it gives.
    """

    path: str
    before: bool = False

    def __call__(self, model: nn.Module, x: Any) -> Any:  # noqa: ANN401 - what the module takes or gives
        """Run the model as far as the module."""
        if self.before:
            body = hooked(model, {self.path: _pass_on})
            body.get_submodule(self.path).register_forward_pre_hook(_stop_before)
        else:
            body = replaced(model, {self.path: _ending(model.get_submodule(self.path))})
        restore_forward(body)  # one that was put together from the anatomy would come here again
        try:
            run(body, x)
        except _Stop as stop:
            return stop.value
        raise NotSupported(
            f"the module {self.path!r} did not run",
            cause="forward takes another way than it took when the model was traced",
            hint="zoo.adopt(model, example=...) again, with an input and in the mode that you use",
        )


def _pass_on(_module: nn.Module, _args: object, _output: object) -> None:
    """A hook that does nothing: what it hangs on is a twin, which may be given others."""


def _stop_before(_module: nn.Module, args: tuple[Any, ...]) -> None:
    raise _Stop(args[0])


class _Ending(Variant):
    """Put before the class of the last module that is to run: what taps and hooks hear of it is over by then."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - it is in the place of modules of any kind
        raise _Stop(super().__call__(*args, **kwargs))  # type: ignore[misc]  # the class after it is a module's


def _ending(module: nn.Module) -> nn.Module:
    twin: nn.Module = object.__new__(variant(type(module), _Ending, ()))
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin
