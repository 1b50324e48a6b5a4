"""The passes that a model is recorded in: without values where that works, on two batches, and in train mode too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from zoo_core.errors import AnatomyError
from zoo_core.surgery.features.forward import forward_arguments, run_forward
from zoo_core.tracing.recording import Dataflow, record
from zoo_core.utils.duplicate import duplicate, with_the_same_tensors, without_values
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.meta_shapes import MetaShapes

_SIGNAL = 3


@dataclass(frozen=True)
class Passes:
    """The recorded passes of one model.

    Attributes:
        model: What ran: a copy without values, or one with them.
        x: What it was given.
        example: The same on the device of the example: a batch of two, or what forward takes of no other size.
        evaluated: In eval mode.
        other: The same on a batch of three, of larger images where it takes such.
        trained: In train mode; None where the model did not run in it.
        larger: On images twice as high and wide, as far as it came.
        chosen: Paths of the modules that do not run for all values of the input, or not on all samples.
    """

    model: nn.Module
    x: Any
    example: Any
    evaluated: Dataflow
    other: Dataflow
    trained: Dataflow | None
    larger: Dataflow
    chosen: frozenset[str]

    @property
    def any_size(self) -> bool:
        """Whether it takes images twice as high and wide."""
        return self.other is self.larger

    @property
    def flows(self) -> list[Dataflow]:
        """All of them."""
        flows = [self.evaluated, self.other, *([self.trained] if self.trained else [])]
        return list(dict.fromkeys(flows))  # a model of one batch size has no other


def record_passes(model: nn.Module, example: Any) -> Passes:
    """Record a model in all its passes; it is not changed, nor is the random state.

    Args:
        model: Any module.
        example: What forward takes: one value, a tuple of several, or a dict of arguments by name.

    Raises:
        AnatomyError: It does not run on this example.
    """
    with torch.random.fork_rng(devices=[]):
        for x, copied in product((batch_of(example, 2), example), (without_values, duplicate)):
            _initialize_lazy(model, x)
            try:
                twin = copied(model)
                given = placed(x, twin)
                flow = _record_pass(twin, given)
                dtypes = {each.dtype for each in tree_iter(x) if isinstance(each, Tensor)}
                if copied is without_values and not dtypes.isdisjoint({torch.int32, torch.int64}):
                    output_of(with_the_same_tensors(model), placed(x, model))  # meta tensors fit any index
            except Exception as error:  # noqa: BLE001 - the model's own code; it is tried with values next
                failure = error
            else:
                passes = _further_passes(twin, given, x, flow)
                if passes.trained is None and copied is without_values:  # as where it makes noise on the CPU
                    passes = replace(passes, trained=_train_pass(duplicate(model), placed(x, model)))
                return passes
    raise AnatomyError(
        f"this {type(model).__name__} does not run on the example",
        expected="what forward takes: a tensor, a tuple of several arguments, or a dict of them by name",
        got=f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}",
        cause="it is tried with a batch of two, made of the example, and with the example as it is",
        hint="example=(x, y) gives forward two arguments"
        if isinstance(failure, TypeError)
        else "give an example of another size or dtype, such as torch.zeros(1, 3, 224, 224)",
    ) from failure


def _further_passes(model: nn.Module, x: Any, example: Any, flow: Dataflow) -> Passes:
    """Passes besides the first: of another batch, of a larger input, and in train mode."""
    larger = _record_pass(model, _enlarged(batch_of(x, 3)), as_far=True)
    is_whole = larger.recording.root.end >= 0 and len(larger.recording.ops) == len(flow.recording.ops)
    other = larger if is_whole and _same_ops(flow, larger) else _pass_like(flow, model, batch_of(x, 3)) or flow
    return Passes(model, x, example, flow, other, _train_pass(model, x), larger, _chosen_by_values(model, x, flow))


def _train_pass(model: nn.Module, x: Any) -> Dataflow | None:
    """Recorded pass of a copy of a model in train mode; None where it does not run in that."""
    try:
        return _record_pass(model, x, train=True)
    except Exception:  # noqa: BLE001 - the model's own code; a batch may be too small for its norms
        return None


def _chosen_by_values(model: nn.Module, x: Any, flow: Dataflow) -> frozenset[str]:
    """The modules that further passes, on other values, do not run alike: on as many samples, and as often.

    A model that runs without values cannot choose by them.
    """
    if any(each.is_meta for each in model.parameters()):
        return frozenset()
    calls, result, generator = _samples_given(flow), set[str](), torch.Generator().manual_seed(0)
    for offsets in ((0.0, 0.0), (3.0, 3.0), (-3.0, -3.0), (3.0, -3.0)):
        with suppress(Exception):  # the model's own code, which may not take such values
            again = _samples_given(_record_pass(model, tree_map(partial(_noise, offsets, generator), x)))
            result |= {path for path in {*calls, *again} if calls.get(path) != again.get(path)}
    return frozenset(result)


def _samples_given(flow: Dataflow) -> dict[str, list[int]]:
    """Of each module that ran in a pass, the first axis of what it gave in each of its calls."""
    result = dict[str, list[int]]()
    for call in flow.recording.calls():
        shapes = (flow.recording.shapes[value] for value in call.outputs[:1])
        result.setdefault(call.path, []).extend(shape[0] if shape else 0 for shape in shapes)
    return result


def _noise(offsets: Sequence[float], generator: torch.Generator, value: object) -> object:
    """Another value for a pass: noise in the place of a tensor of floats, around one offset in each half of a batch."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
        return value
    noise = torch.randn(value.shape, generator=generator, device="cpu")
    half = len(noise) // 2
    noise[:half] += offsets[0]
    noise[half:] += offsets[1]
    return noise.to(value)


def _pass_like(flow: Dataflow, model: nn.Module, x: Any) -> Dataflow | None:
    """Recorded pass on another input; None where it fails, or where something else runs."""
    try:
        result = _record_pass(model, x)
    except Exception:  # noqa: BLE001 - the model's own code, which may take one batch size only
        return None
    return result if len(result.recording.ops) == len(flow.recording.ops) and _same_ops(flow, result) else None


def _same_ops(flow: Dataflow, other: Dataflow) -> bool:
    """Whether the same ops ran in both recorded passes, as far as the shorter one came."""
    pairs = zip(flow.recording.ops, other.recording.ops, strict=False)
    return all(one.name == two.name and one.outputs == two.outputs for one, two in pairs)


def _record_pass(model: nn.Module, x: Any, *, train: bool = False, as_far: bool = False) -> Dataflow:
    """Record one pass of a model, in eval or train mode, as what depends on what."""
    with evaluating(model):
        model.train(train)
        return Dataflow(record(model, *forward_arguments(model, x), as_far=as_far))


def _initialize_lazy(model: nn.Module, x: Any) -> None:
    """Run a first pass, before those that are traced, over a model with lazy layers, which gives them their shapes."""
    if any(nn.parameter.is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        with suppress(Exception):  # what fails here fails again, and is reported, where it is recorded
            output_of(model, placed(x, model))


def placed(x: Any, model: nn.Module) -> Any:
    """The input of a pass on the device of the model."""
    like = next(model.parameters(), None)
    return x if like is None else tree_map(lambda each: each.to(like.device) if isinstance(each, Tensor) else each, x)


def batch_of(x: Any, size: int) -> Any:
    """Input for a pass at another batch size, made of the first sample of the example; a list is one of samples."""
    if isinstance(x, list):
        return [x[0].clone() if isinstance(x[0], Tensor) else x[0] for _ in range(size)] if x else x

    def widen(each: object) -> object:
        if not isinstance(each, Tensor) or not each.dim():
            return each
        return each[:1].expand(size, *each.shape[1:]).clone()

    return tree_map(widen, x)


def _enlarged(x: Any) -> Any:
    """The input of a pass with its sides twice as long, to record one more pass of the model."""

    def enlarge(each: object) -> object:
        if not isinstance(each, Tensor) or each.dim() < _SIGNAL:
            return each
        sides = min(each.dim() - 2, 2)
        return each.repeat(*[1] * (each.dim() - sides), *[2] * sides)

    return tree_map(enlarge, x)


def output_of(model: nn.Module, x: Any) -> Any:
    """Run a pass of a model that is traced, in eval mode without gradients; its buffers are as before afterwards."""
    with torch.no_grad(), evaluating(model), _same_buffers(model), MetaShapes():
        return run_forward(model, x)


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Inside the block, passes may change the buffers of a model; they are put back afterwards."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def same_place(flow: Dataflow, other: Dataflow, value: int) -> int | None:
    """The tensor of another pass that is made where ``value`` is in this one; None where that is unclear."""
    if other is flow:
        return value
    calls = {call.path: call for call in other.recording.calls()}
    for call in flow.recording.calls_that_give(value):
        if call.path in calls and len(calls[call.path].outputs) == 1:
            return calls[call.path].outputs[0]
    same = len(other.recording.shapes) == len(flow.recording.shapes)
    return value if same else None
