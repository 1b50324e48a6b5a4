"""One forward pass as data: every torch function that ran, in which module, and what depends on what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

from zoo_core.utils.hooks import removing
from zoo_core.utils.meta_shapes import with_meta_shapes


@dataclass(frozen=True)
class Ref:
    """In a recording, a tensor by its number in ``Recording.shapes``."""

    value: int


@dataclass(frozen=True)
class Parameter:
    """In a recording, a parameter or buffer of the model, by name."""

    name: str


@dataclass(frozen=True)
class Unknown:
    """In a recording, a tensor from outside the pass that is no parameter, or an object that is no plain value."""

    kind: str


@dataclass
class Op:
    """One torch function that ran in a recorded pass.

    Attributes:
        function: What ran; None for a module whose inside torch does not show, such as a scripted one.
        args: What it was given; tensors are a :class:`Ref`, :class:`Parameter` or :class:`Unknown`.
        kwargs: The same by name.
        outputs: Numbers of the tensors that came out.
        modules: Paths of the modules that were running, outermost first.
        output: What came out, with a :class:`Ref` for each tensor.
    """

    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    modules: tuple[str, ...]
    output: Any

    @property
    def name(self) -> str:
        """Name of the function without the underscores of its variants, such as ``"relu"`` for ``torch.relu_``."""
        return getattr(self.function, "__name__", "").strip("_")

    @cached_property
    def inputs(self) -> list[int]:
        """Numbers of the tensors that went in."""
        return [each.value for each in tree_iter((self.args, self.kwargs)) if isinstance(each, Ref)]

    @cached_property
    def parameters(self) -> list[str]:
        """Names of the parameters and buffers that went in."""
        return [each.name for each in tree_iter((self.args, self.kwargs)) if isinstance(each, Parameter)]


@dataclass
class Call:
    """One recorded call of a module: the ops from ``start`` up to ``end`` ran in it."""

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    start: int
    end: int = -1
    output: Any = None
    children: list[Call | int] = field(default_factory=list)

    @cached_property
    def outputs(self) -> list[int]:
        """Numbers of the tensors that came out."""
        return [each.value for each in tree_iter(self.output) if isinstance(each, Ref)]


@dataclass
class Recording:
    """One forward pass, recorded.

    Attributes:
        ops: What ran, in order.
        root: The call of the model itself; calls of its parts hang on it as a tree, with the numbers of ops.
        shapes: Shape of each tensor.
        producer: Number of a tensor to the number of the op that made it; inputs of the model have none.
        inputs: Numbers of the tensors that the model was given.
        reads: Numbers of the tensors whose values forward took as Python's, as ``if x.sum() > 0`` does.
    """

    ops: list[Op] = field(default_factory=list)
    root: Call = field(default_factory=lambda: Call("", (), {}, 0))
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    producer: dict[int, int] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)

    def calls(self) -> Iterator[Call]:
        """Every call of a part of the model, parents first, in the order they began."""
        stack: list[Call] = [self.root]
        while stack:
            call = stack.pop()
            if call is not self.root:
                yield call
            stack += [child for child in reversed(call.children) if isinstance(child, Call)]

    def calls_that_give(self, value: int) -> list[Call]:
        """The calls that give just this tensor, of modules that run once; the outermost first."""
        calls = [*self.calls()]
        often = [call.path for call in calls]
        return [call for call in calls if call.outputs == [value] and often.count(call.path) == 1]

    def users(self, values: Iterable[int]) -> list[Op]:
        """The ops that are given one of these tensors."""
        among = {*values}
        return [op for op in self.ops if not among.isdisjoint(op.inputs)]


_READING = frozenset(
    {"bool", "int", "float", "complex", "index", "item", "tolist", "numpy", "array", "equal", "allclose", "is_nonzero"}
)
"""Functions that, where they give no tensor, give values of one."""


class _Recorder(TorchFunctionMode):
    """Records the torch functions that run while it is active."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.recording = Recording()
        self._names: dict[int, str] = {}
        self._alive: list[Tensor] = []
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            self._names.setdefault(id(tensor), name)
            self._alive.append(tensor)  # forward may replace a buffer, and another tensor get its id
        self._values: dict[int, int] = {}
        self.stack: list[Call] = [self.recording.root]

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        noted = self.noted((args, kwargs))  # before it runs, since it may work in place
        result = with_meta_shapes(func, args, kwargs)
        name = getattr(func, "__name__", "")
        made = args[0] if name == "__setitem__" else result
        if any(isinstance(each, Tensor) for each in tree_iter(made)):
            self.note(func, noted, made)
        elif name.strip("_") in _READING:
            self.recording.reads += [each.value for each in tree_iter(noted) if isinstance(each, Ref)]
        return result

    def note(self, func: Callable[..., Any] | None, noted: tuple[Any, Any], made: object) -> None:
        """Add an op with new numbers for the tensors that came out of it."""
        number = len(self.recording.ops)
        new = []
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and id(tensor) not in self._names:
                new.append(self.new(tensor))
                self.recording.producer[new[-1]] = number
        modules = tuple(call.path for call in self.stack)
        self.recording.ops.append(Op(func, noted[0], noted[1], tuple(new), modules, self.noted(made)))
        self.stack[-1].children.append(number)

    def new(self, tensor: Tensor) -> int:
        """A new number for a tensor, which stays alive so that no other one gets its id."""
        self._alive.append(tensor)
        self._values[id(tensor)] = len(self.recording.shapes)
        self.recording.shapes.append(tuple(tensor.shape))
        return self._values[id(tensor)]

    def noted(self, value: Any) -> Any:
        """``value`` with records in the place of tensors and of objects that are no plain values."""
        return tree_map(self._noted_one, plain_fields(value))

    def _noted_one(self, value: object) -> object:
        if isinstance(value, Tensor):
            if id(value) in self._names:
                return Parameter(self._names[id(value)])
            if id(value) in self._values:
                return Ref(self._values[id(value)])
            return Unknown("a tensor")
        if isinstance(value, torch.Size):
            return tuple(value)
        plain = (int, float, str, bool, complex, slice, torch.dtype, torch.device, torch.memory_format, torch.layout)
        return value if value is None or value is ... or isinstance(value, plain) else Unknown(type(value).__name__)

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module begins to run."""
        args, kwargs = self.noted((args, kwargs))
        call = Call(path, args, kwargs, len(self.recording.ops))
        self.stack[-1].children.append(call)
        self.stack.append(call)

    def leave(self, output: object) -> None:
        """The module has run. What torch did not show of it counts as one op."""
        call = self.stack[-1]
        hidden = [
            tensor
            for tensor in tree_iter(plain_fields(output))
            if isinstance(tensor, Tensor) and id(tensor) not in self._values and id(tensor) not in self._names
        ]
        if hidden:
            self.note(None, (call.args, call.kwargs), hidden)
        call.end, call.output = len(self.recording.ops), self.noted(output)
        self.stack.pop()


def plain_fields(value: Any) -> Any:
    """A nest of values as a recording has it: output objects, such as those of transformers, are dicts of their fields.

    A named tuple, as a ``PackedSequence`` is, becomes a plain one.
    """
    if isinstance(value, Mapping):
        return {name: plain_fields(each) for name, each in value.items()}
    if not isinstance(value, type) and hasattr(value, "__dataclass_fields__"):
        return {name: plain_fields(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple) and (type(value) is tuple or hasattr(value, "_fields")):
        return tuple(plain_fields(each) for each in value)
    return [plain_fields(each) for each in value] if type(value) is list else value


def record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, as_far: bool = False) -> Recording:
    """Run ``model`` once, without gradients, and record every torch function that ran.

    Args:
        model: In the mode it is to run in.
        args: What forward takes.
        kwargs: The same by name.
        as_far: Whether a pass that fails counts as far as it came.
    """
    recorder = _Recorder(model)
    for tensor in tree_iter(plain_fields((args, kwargs))):
        if isinstance(tensor, Tensor):
            recorder.recording.inputs.append(recorder.new(tensor))
    root = recorder.recording.root
    root.args, root.kwargs = recorder.noted(args), recorder.noted(kwargs)
    with torch.no_grad(), _noting_calls(model, recorder), recorder:
        try:
            output = model(*args, **kwargs)
        except Exception:
            if not as_far:
                raise
            return recorder.recording
    root.end, root.output = len(recorder.recording.ops), recorder.noted(output)
    return recorder.recording


@contextmanager
def _noting_calls(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Inside the block, the recorder sees which part of ``model`` runs."""
    handles: list[Any] = []
    for path, module in model.named_modules():
        if not path:
            continue

        def enter(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            recorder.enter(path, args, kwargs)

        def leave(_: nn.Module, _args: object, output: object) -> None:
            recorder.leave(output)

        with suppress(RuntimeError):  # a scripted module takes no hooks; what it gives counts as one op
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
    with removing(handles):
        yield


_NAMES = """
relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh softplus prelu threshold sigmoid tanh
softmax log_softmax logsigmoid softmin clamp clip exp log neg abs nan_to_num
dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
flatten unflatten view reshape squeeze unsqueeze permute transpose t movedim moveaxis swapaxes contiguous expand
expand_as view_as reshape_as ravel clone to float half double bfloat16 type detach type_as getitem get select narrow
chunk split unbind tensor_split pad roll index_select
cat concat concatenate stack hstack vstack add radd iadd sum mean max amax min amin
mul rmul imul div truediv rtruediv true_divide idiv itruediv sub rsub isub
avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample pixel_shuffle
"""
HARMLESS = frozenset(_NAMES.split())
"""Functions through which the scores of a head may go; a vector that is normalized is an embedding, and no scores."""

_PARTS = frozenset({"getitem", "get", "select", "narrow", "index_select", "chunk", "split", "tensor_split", "unbind"})
"""Functions that give parts of a tensor."""

_CASTS = frozenset({"to", "type", "type_as", "float", "half", "bfloat16", "contiguous"})

_PRODUCTS = frozenset(name for name in HARMLESS if name.lstrip("ri") in {"mul", "div", "truediv", "true_divide", "sub"})
"""Of those, the ones that only a number or a constant may go into beside the scores."""


@dataclass(frozen=True, eq=False)
class Dataflow:
    """What depends on what in one recorded pass."""

    recording: Recording

    @cached_property
    def from_input(self) -> frozenset[int]:
        """Numbers of the tensors that depend on what the model was given."""
        result = set(self.recording.inputs)
        for op in self.recording.ops:
            if any(value in result for value in op.inputs):
                result.update(op.outputs)
        return frozenset(result)

    @property
    def reads_input(self) -> bool:
        """Whether forward took values that depend on its input as Python's, so that other code runs for other ones."""
        return not self.from_input.isdisjoint(self.recording.reads)

    @cached_property
    def parameters(self) -> dict[int, frozenset[str]]:
        """For each tensor that is computed from parameters alone, which."""
        result: dict[int, frozenset[str]] = {}
        for op in self.recording.ops:
            if not any(value in self.from_input for value in op.inputs):
                names = frozenset(op.parameters).union(*(result.get(value, ()) for value in op.inputs))
                result.update(dict.fromkeys(op.outputs, names))
        return result

    def parameters_of(self, op: Op) -> list[str]:
        """Names of the parameters that an op uses, directly or after something was computed from them."""
        names = dict.fromkeys(op.parameters)
        for value in op.inputs:
            names |= dict.fromkeys(sorted(self.parameters.get(value, ())))
        return list(names)

    def moving(self, op: Op) -> list[int]:
        """Those of the tensors that went in which depend on the model's input."""
        return [value for value in op.inputs if value in self.from_input]

    def passes(self, op: Op) -> bool:
        """Whether scores go through this op as they are, class by class: an activation, a pool, a sum, a reshape."""
        return op.name in HARMLESS and not (op.name in _PRODUCTS and len(self.moving(op)) > 1)

    def ancestors(self, values: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
        """Numbers of the ops that tensors were computed by, not looking beyond those in ``stop``."""
        ends, result, todo = {*stop}, set[int](), [*values]
        while todo:
            value = todo.pop()
            number = self.recording.producer.get(value)
            if value in ends or number is None or number in result:
                continue
            result.add(number)
            todo += self.recording.ops[number].inputs
        return result

    def before_layers(self, values: Iterable[int]) -> set[int]:
        """These tensors, and those they are made of without layers, such as ``x`` of ``x[i]``."""
        result, todo = {*values}, [*values]
        while todo:
            op = self.recording.producer.get(todo.pop())
            if op is not None and not self.parameters_of(self.recording.ops[op]):
                new = [value for value in self.moving(self.recording.ops[op]) if value not in result]
                result.update(new)
                todo += new
        return result

    def called_beside(self, path: str) -> str | None:
        """Name of a function that a layer calls with what it is given, beside the one that uses its parameters."""
        inside = (op for op in self.recording.ops if path in op.modules and self.moving(op))
        return next((op.name for op in inside if not self.parameters_of(op) and op.name not in _CASTS), None)

    def part_left(self, made: Iterable[int], end: int, axis: int, width: int) -> int | None:
        """How many of the ``width`` numbers along an axis go on from some tensors to ``end``; None where all do."""
        shapes, after = self.recording.shapes, {*made}
        for number in sorted(self.ancestors([end])):
            op = self.recording.ops[number]
            if op.name not in HARMLESS or after.isdisjoint(op.inputs):
                continue
            after.update(op.outputs)
            for value in op.outputs if op.name in _PARTS else ():
                before, left = shapes[next(each for each in op.inputs if each in after)], shapes[value]
                if len(before) > max(axis, 0) and before[axis] == width:
                    if len(left) < len(before):
                        return 1
                    if left[axis] < width:
                        return left[axis]
        return None

    def live(self, outputs: Iterable[int]) -> list[frozenset[int]]:
        """The tensors that are needed before each op and after the last one, on the way to some outputs."""
        ends = [value for value in outputs if value in self.from_input]
        used = self.ancestors(ends)
        last: dict[int, int] = {}
        for number in sorted(used):
            last.update(dict.fromkeys(self.moving(self.recording.ops[number]), number))
        last.update(dict.fromkeys(ends, len(self.recording.ops)))
        live = frozenset(value for value in self.recording.inputs if value in last)
        result = [live]
        for number, op in enumerate(self.recording.ops):
            if number in used:
                made = {value for value in op.outputs if last.get(value, -1) > number and value in self.from_input}
                live = frozenset(value for value in live if last[value] > number) | made
            result.append(live)
        return result

    def cuts(self, outputs: Iterable[int]) -> list[int]:
        """The tensors through which everything passes on its way to some outputs, in the order they were made."""
        alone = (next(iter(live)) for live in self.live(outputs) if len(live) == 1)
        return list(dict.fromkeys(alone))
