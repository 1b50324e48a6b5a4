"""The last parametric layers before the outputs of a traced program, which may be heads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.utils._pytree import tree_flatten_with_path

from zoo_core.contract.anatomy import NO_LAYER
from zoo_core.tracing.recording import Dataflow, Op, Ref
from zoo_core.utils.attributes import get_attribute

KINDS: tuple[tuple[type[nn.Module], Literal["linear", "conv", "conv1d", "conv3d"]], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv3d, "conv3d"),
)
_FAR = 500
"""Ops that are looked through for a layer to name."""
VECTORS = 2
"""Axes of ``[N, C]``."""
IMAGES = frozenset({4, 5})
"""Axes of images and of clips."""
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass
class Layers:
    """The last parametric layers before one output, which may be heads.

    Attributes:
        key: Where the output is in what forward returns, as names and numbers; empty for the whole of it.
        value: Number of the output tensor.
        ops: Path of each layer to the number of the op in which it ran.
        reasons: Why a layer before this output is no head site, by path.
        averaged: Whether their scores are averaged, and not only added.
    """

    key: tuple[Any, ...]
    value: int
    ops: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    averaged: bool = False


def owner(op: Op, parameters: Iterable[str]) -> str:
    """Path of the layer in which an op used the parameters, to find the last ones by; ``""`` for the model itself."""
    owners = {_layer_of(name) for name in parameters}
    return next((path for path in reversed(op.modules) if path in owners), min(owners, default=""))


def _layer_of(name: str) -> str:
    """Path of the last layer with a parameter, also where a parametrization computes its weight from it."""
    layer, is_computed, _ = name.partition(".parametrizations.")
    return layer if is_computed else name.rpartition(".")[0]


def last_layers(model: nn.Module, flow: Dataflow) -> list[Layers]:
    """For each tensor that forward returned, the last parametric layers it went through: candidates for heads."""
    leaves, _ = tree_flatten_with_path(flow.recording.root.output)
    result = []
    for path, leaf in leaves:
        if isinstance(leaf, Ref) and leaf.value in flow.from_input:
            key = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
            result.append(_last_layers_before(model, flow, Layers(key, leaf.value)))
    return result


def _last_layers_before(model: nn.Module, flow: Dataflow, found: Layers) -> Layers:
    """Last layers with parameters before an output, and why others are no heads, by a walk back through the ops."""
    recording = flow.recording
    todo, seen = [found.value], set[int]()
    while todo:
        value = todo.pop()
        number = recording.producer.get(value)
        if number is None:
            found.reasons.setdefault("", "the input itself reaches the output without passing a layer")
            continue
        if number in seen:
            continue
        seen.add(number)
        op = recording.ops[number]
        parameters = flow.parameters_of(op)
        if op.function is None or any(get_attribute(model, name).numel() > 1 for name in parameters):
            _add(model, flow, found, number)
        elif flow.passes(op):
            found.averaged = found.averaged or op.name in {"div", "truediv", "mean", "mul", "rmul"}
            todo += flow.moving(op)
        else:
            for path in _last_layers_before_op(model, flow, op):
                found.reasons[path] = f"forward calls {op.name or 'a hidden function'} with what it gives"
    return found


def _add(model: nn.Module, flow: Dataflow, found: Layers, number: int) -> None:
    """Add the layer of an op to those that may be heads, or the reason why it is none."""
    op = flow.recording.ops[number]
    path = owner(op, flow.parameters_of(op)) if op.function is not None else op.modules[-1]
    why = layer_refusal(model, path, flow.parameters_of(op)) or _more_than_a_layer(model, flow, path)
    if why is None:
        found.ops.setdefault(path, number)
    else:
        found.reasons[path] = why


def layer_refusal(model: nn.Module, path: str, parameters: list[str]) -> str | None:
    """Why the last layer with parameters before an output, at ``path``, cannot be a head; None where it can."""
    layer = model.get_submodule(path)
    if not path or isinstance(layer, _RECURRENT):
        return f"{', '.join(parameters) or 'what it computes'} {NO_LAYER}"
    if not isinstance(layer, tuple(kind for kind, _ in KINDS)):
        return f"its class is {type(layer).__name__}, and a head is a Linear or a convolution"
    if getattr(layer, "groups", 1) != 1:
        return "it is a grouped convolution"
    if any(name.rpartition(".")[0] != path and not name.startswith(f"{path}.") for name in parameters):
        return "its weights are computed from those of another module"
    return None


def _more_than_a_layer(model: nn.Module, flow: Dataflow, path: str) -> str | None:
    """Why a last layer that subclasses a Linear or a convolution cannot be a head: it computes more than these do."""
    kind = type(model.get_submodule(path))
    more = None if kind.__module__.startswith("torch.nn") else flow.called_beside(path)
    return f"it is a {kind.__name__}, which calls {more} beside what a Linear or a convolution does" if more else None


def _last_layers_before_op(model: nn.Module, flow: Dataflow, op: Op) -> list[str]:
    """Paths of the last layers before an op that scores do not pass: what the user may have meant as the head."""
    result, todo, seen = [], flow.moving(op), set[int]()
    while todo and len(seen) < _FAR:
        number = flow.recording.producer.get(todo.pop())
        if number is None or number in seen:
            continue
        seen.add(number)
        each = flow.recording.ops[number]
        path = owner(each, flow.parameters_of(each)) if flow.parameters_of(each) else ""
        if path and isinstance(model.get_submodule(path), tuple(kind for kind, _ in KINDS)):
            result.append(path)
        else:
            todo += flow.moving(each)
    return list(dict.fromkeys(result))[:5]
