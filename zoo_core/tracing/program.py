"""Programs: a piece of a forward pass as the steps that were recorded, run again on a model with the same parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_iter, tree_leaves, tree_map, tree_unflatten

from zoo_core.contract.chain import Chain, flatten
from zoo_core.tracing.recording import Call, Dataflow, Op, Parameter, Ref, Unknown
from zoo_core.utils.attributes import get_attribute


@dataclass(frozen=True)
class Value:
    """A tensor of a recorded program: what went into it, number 0, or what a step gave."""

    number: int


@dataclass(frozen=True)
class Own:
    """A parameter or buffer of the model itself that a recorded program uses, by name."""

    name: str


@dataclass(frozen=True)
class Size:
    """The size of an axis of a tensor of a recorded program, or the product of several, times a number."""

    value: int
    axes: tuple[int, ...]
    times: int = 1


@dataclass(frozen=True)
class Training:
    """Whether the model is in train mode, as an argument in a recorded program."""


@dataclass(frozen=True)
class Step:
    """One step of a recorded program.

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
    """A step's function of ``torch.nn.functional`` that a pickled program cannot find by itself, as ``max_pool2d``."""

    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return getattr(functional, self.__name__)(*args, **kwargs)


@dataclass(frozen=True)
class Apply:
    """A function of one tensor, as a step of a program: a recorded function with its other arguments.

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

    def __call__(self, x: Any) -> Any:
        """Run the function."""
        values = {0: x}
        args, kwargs = (_filled_arguments(each, None, values) for each in (self.step.args, self.step.kwargs))
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
    def paths(self) -> tuple[str, ...]:
        """Paths of the modules that it calls."""
        return tuple(step.run for step in self.steps if isinstance(step.run, str))

    def __call__(self, model: nn.Module, x: Any) -> Any:
        """Run the steps."""
        values: dict[int, Any] = dict(enumerate(x)) if self.several else {0: x}
        for step in self.steps:
            args, kwargs = (_filled_arguments(each, model, values) for each in (step.args, step.kwargs))
            run = model.get_submodule(step.run) if isinstance(step.run, str) else step.run
            _keep(step.output, run(*args, **kwargs), values, args)
        return _filled_arguments(self.output, model, values)


def _filled_arguments(record: Any, model: Any, values: dict[int, Any]) -> Any:
    """Arguments of a program's step, with tensors and sizes in the places of their records."""

    def fill(each: object) -> object:
        if isinstance(each, Value):
            return values[each.number]
        if isinstance(each, Own):
            return get_attribute(model, each.name)
        if isinstance(each, Size):
            return each.times * math.prod(values[each.value].shape[axis] for axis in each.axes)
        return model.training if isinstance(each, Training) else each

    return tree_map(fill, record)


def _keep(record: Any, result: Any, values: dict[int, Any], args: Any) -> None:
    """As a program runs, note the tensors of ``result`` by the numbers that later steps use."""
    if isinstance(record, Value):
        values[record.number] = args[0] if result is None else result  # as item assignment gives nothing
    elif isinstance(record, dict):
        for name, each in record.items():
            _keep(each, result[name] if isinstance(result, dict) else getattr(result, name), values, args)
    elif isinstance(record, list | tuple):
        for each, part in zip(record, result, strict=False):
            _keep(each, part, values, args)


@dataclass(frozen=True)
class Item:
    """Where a tensor is in what forward returns, as steps to it, one after another: names and numbers."""

    key: tuple[Any, ...]

    def __call__(self, output: Any) -> Any:
        """The tensor."""
        for step in self.key:
            if isinstance(step, str) and not isinstance(output, dict) and not hasattr(output, "keys"):
                output = getattr(output, step)
            else:
                output = output[step]
        return output


@dataclass(frozen=True)
class ItemOf:
    """Reads the map of a stage, by the steps to it, in what its last module gives: a tuple, a list or a dict.

    Attributes:
        key: Where it is, as of :class:`Item`.
    """

    key: tuple[Any, ...]

    def __call__(self, _model: object, output: Any) -> Any:
        """The map."""
        return Item(self.key)(output)


class Untraceable(Exception):
    """Why a piece of the forward pass cannot be written down as the steps of a program."""


def piece(
    flows: Sequence[Dataflow], starts: Sequence[list[int]], ends: Sequence[Any], expand: Collection[str] = ()
) -> Chain | Program:
    """The program from some tensors to others: its steps are the same in every recorded pass.

    Args:
        flows: The passes: on batches of several sizes, and in train mode too.
        starts: For each, the tensors to begin with.
        ends: For each, what comes out: a nest of tensors.
        expand: Paths of modules whose parts are steps of their own.

    Returns:
        A Chain where each step takes just what the step before it gives.

    Raises:
        Untraceable: The passes differ, or something else than these tensors goes in.
    """
    raw = [
        _numbered_steps(_steps(flow, start, end, expand), start, end)
        for flow, start, end in zip(flows, starts, ends, strict=True)
    ]
    shapes = [numbers for _, _, numbers in raw]
    sizes = [
        {number: flow.recording.shapes[value] for value, number in numbers.items()}
        for flow, numbers in zip(flows, shapes, strict=True)
    ]
    steps: list[Step] = []
    for each in _aligned_steps([steps for steps, _, _ in raw]):
        if len({repr(step.run) for step in each}) > 1:
            raise Untraceable(f"{each[0].run} runs in one pass and {each[-1].run} in another")
        known = {value.number for step in steps for value in tree_iter(step.output) if isinstance(value, Value)}
        known |= {*range(len(starts[0]))}
        args, kwargs = _merged_arguments([(step.args, step.kwargs) for step in each], sizes, known)
        steps.append(Step(each[0].run, args, kwargs, each[0].output))
    program = Program(tuple(steps), raw[0][1], several=len(starts[0]) if len(starts[0]) > 1 else 0)
    return _as_chain(program, sizes) or program


def _aligned_steps(passes: list[list[Step]]) -> list[tuple[Step, ...]]:
    """The steps of a program as one pass recorded them, each beside what it is in the other passes."""
    if len({len(steps) for steps in passes}) > 1:
        raise Untraceable("train and eval mode, or batches of other sizes, run different steps")
    return list(zip(*passes, strict=True))


def _steps(flow: Dataflow, start: list[int], end: Any, expand: Collection[str]) -> list[Step]:
    """The steps of a program from some tensors to others, in one recorded pass."""
    recording = flow.recording
    ends = [each.value for each in tree_iter(end) if isinstance(each, Ref)]
    needed = flow.ancestors(ends, stop=start)
    foreign = {value for number in needed for value in recording.ops[number].inputs if value in recording.inputs}
    if foreign - {*start}:
        raise Untraceable("more goes in than one tensor: the input itself is used again later")
    last_use: dict[int, int] = dict.fromkeys(ends, len(recording.ops))
    for number in sorted(needed):
        for value in recording.ops[number].inputs:
            last_use[value] = max(number, last_use.get(value, -1))

    def visit(call: Call) -> Iterator[Step]:
        for child in call.children:
            if isinstance(child, int):
                if child in needed:
                    yield _step_of_op(recording.ops[child])
            elif needed.isdisjoint(range(child.start, child.end)):
                continue
            elif child.path not in expand and _is_whole(flow, child, needed, start, last_use):
                yield Step(child.path, child.args, child.kwargs, child.output)
            else:
                yield from visit(child)

    return [*visit(recording.root)]


def _step_of_op(op: Op) -> Step:
    """The step of a program for a recorded op."""
    if op.function is None:
        raise Untraceable(f"what {op.modules[-1] or 'the model'} computes is hidden from torch")
    name = getattr(op.function, "__name__", "")
    local = "<locals>" in getattr(op.function, "__qualname__", "")
    if local and not hasattr(functional, name):
        raise Untraceable(f"{name or 'a function'} was made inside another function")
    return Step(Functional(name) if local else op.function, op.args, op.kwargs, op.output)


def _is_whole(flow: Dataflow, call: Call, needed: set[int], start: list[int], last_use: dict[int, int]) -> bool:
    """Whether a module's call is one step of a program: all that it takes is there, and all that is used comes out."""
    recording = flow.recording
    inside = range(call.start, call.end)
    if any(recording.producer.get(value, -1) in inside for value in start):
        return False
    records = [*tree_iter((call.args, call.kwargs))]
    taken = [each.value for each in records if isinstance(each, Ref)]
    if any(isinstance(each, Unknown) for each in records):
        return False
    if any(value not in start and recording.producer.get(value, -1) not in needed for value in taken):
        return False
    made = {value for number in inside for value in recording.ops[number].outputs}
    return {value for value in made if last_use.get(value, -1) >= call.end} <= {*call.outputs}


def _numbered_steps(steps: list[Step], start: list[int], end: Any) -> tuple[list[Step], Any, dict[int, int]]:
    """The steps of a program with its tensors numbered from 0 on, what comes out, and the numbers."""
    numbers = {value: index for index, value in enumerate(start)}
    for step in steps:
        for each in tree_iter(step.output):
            if isinstance(each, Ref):
                numbers.setdefault(each.value, len(numbers))

    def change(each: object) -> object:
        if isinstance(each, Ref):
            if each.value not in numbers:
                raise Untraceable("it needs a tensor from before its start")
            return Value(numbers[each.value])
        if isinstance(each, Unknown | torch.device):
            raise Untraceable(f"it is given {each.kind if isinstance(each, Unknown) else 'a device'}")
        return Own(each.name) if isinstance(each, Parameter) else each

    def change_made(each: object) -> object:
        return Value(numbers[each.value]) if isinstance(each, Ref) else None

    changed = [
        Step(step.run, tree_map(change, step.args), tree_map(change, step.kwargs), tree_map(change_made, step.output))
        for step in steps
    ]
    return changed, tree_map(change, end), numbers


def _merged_arguments(nests: list[Any], sizes: list[dict[int, tuple[int, ...]]], known: set[int]) -> Any:
    """One nest of arguments for a step of a program, which stands for those that were recorded in every pass."""
    leaves = [tree_flatten(nest) for nest in nests]
    if any(spec != leaves[0][1] for _, spec in leaves):
        raise Untraceable("its arguments differ from pass to pass")
    merged = [_one_argument(list(values), sizes, known) for values in zip(*(each for each, _ in leaves), strict=True)]
    return tree_unflatten(merged, leaves[0][1])


def _one_argument(values: list[Any], sizes: list[dict[int, tuple[int, ...]]], known: set[int]) -> Any:
    """One argument of a program's step that stands for its values in every pass."""
    if all(value == values[0] and type(value) is type(values[0]) for value in values):
        return values[0]
    if all(isinstance(value, bool) for value in values):
        return Training()  # the passes differ in their mode, in what else could a flag
    if all(type(value) is int for value in values):
        for number in sorted(known):
            shapes = [size[number] for size in sizes]
            if len({len(shape) for shape in shapes}) == 1 and (result := _as_size(values, shapes, number)):
                return result
    raise Untraceable(f"it is given {values[0]} once and {values[-1]} another time")


def _as_size(values: list[int], shapes: list[tuple[int, ...]], number: int) -> Size | None:
    """An integer in a program's step as the size of an axis, or a product of two, that fits in every pass."""
    axes = range(len(shapes[0]))
    for chosen in [(axis,) for axis in axes] + [(a, b) for a in axes for b in axes if a < b]:
        made = [math.prod(shape[axis] for axis in chosen) for shape in shapes]
        if all(each and not value % each for value, each in zip(values, made, strict=True)):
            times = {value // each for value, each in zip(values, made, strict=True)}
            if len(times) == 1:
                return Size(number, chosen, times.pop())
    return None


def _as_chain(program: Program, sizes: list[dict[int, tuple[int, ...]]]) -> Chain | None:
    """The same program as a Chain; None where a step takes more than what the step before it gives."""
    if program.several:
        return None
    steps: list[Any] = []
    last = 0
    for step in program.steps:
        records = [*tree_iter((step.args, step.kwargs))]
        if {each.number for each in records if isinstance(each, Value)} != {last}:
            return None
        if any(isinstance(each, Own | Training) or (isinstance(each, Size) and each.value != last) for each in records):
            return None
        if not isinstance(step.output, Value):
            return None
        if isinstance(step.run, str):
            if len(step.args) != 1 or step.kwargs:
                return None
            steps.append(step.run)
        elif all(_flattens(size[last], size[step.output.number]) for size in sizes) and _reshapes(step):
            steps.append(flatten)
        else:
            steps.append(Apply(_from_zero(step)))
        last = step.output.number
    return Chain(*steps) if program.output == Value(last) else None


def _reshapes(step: Step) -> bool:
    return getattr(step.run, "__name__", "") in {"flatten", "view", "reshape", "squeeze"}


def _flattens(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return len(after) == 2 and len(before) > 2 and before[0] == after[0]  # noqa: PLR2004 - N, C


def _from_zero(step: Step) -> Step:
    """A step of a program on the tensor that goes into it, number 0, in the place of any other."""

    def change(each: object) -> object:
        if isinstance(each, Value):
            return Value(0)
        return Size(0, each.axes, each.times) if isinstance(each, Size) else each

    return Step(step.run, tree_map(change, step.args), tree_map(change, step.kwargs), Value(0))


def has_types(written: Callable[[Any, Any], Any] | None) -> bool:
    """Whether the steps of a program, or of a chain, hold a dtype or a device, which the model may leave."""
    steps = [getattr(step, "step", step) for step in getattr(written, "steps", ())]
    values = tree_leaves([(getattr(step, "args", ()), getattr(step, "kwargs", {})) for step in steps])
    return any(isinstance(each, torch.dtype | torch.device) for each in values)
