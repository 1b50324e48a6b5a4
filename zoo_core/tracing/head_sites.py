"""Head sites: the last parametric layers before each output, through activations, pools, reshapes and sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.utils._pytree import tree_flatten_with_path

from zoo_core.contract.anatomy import Head
from zoo_core.tracing.recording import Ref

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo_core.tracing.dataflow import Dataflow
    from zoo_core.tracing.recording import Op

_KINDS: tuple[tuple[type[nn.Module], Literal["linear", "conv", "conv3d"]], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.Conv3d, "conv3d"),
)
_FAR = 500
"""Ops that are looked through for a layer to name."""
_VECTORS = 2
"""Axes of ``[N, C]``."""
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass
class Layers:
    """The last parametric layers before one output.

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
    """Path of the innermost running module that holds one of the parameters itself; ``""`` for the model."""
    owners = {name.rpartition(".")[0] for name in parameters}
    return next((path for path in reversed(op.modules) if path in owners), min(owners, default=""))


def last_layers(model: nn.Module, flow: Dataflow) -> list[Layers]:
    """For each tensor that forward returned, the last parametric layers it went through.

    Args:
        model: What was recorded.
        flow: What depends on what in the recorded pass.
    """
    leaves, _ = tree_flatten_with_path(flow.recording.root.output)
    found = []
    for path, leaf in leaves:
        if isinstance(leaf, Ref) and leaf.value in flow.from_input:
            key = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
            found.append(_before(model, flow, Layers(key, leaf.value)))
    return found


def _before(model: nn.Module, flow: Dataflow, found: Layers) -> Layers:
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
        if [name for name in parameters if _elements(model, name) > 1] or op.function is None:
            _add(model, flow, found, number)
        elif flow.passes(op):
            found.averaged = found.averaged or op.name in {"div", "truediv", "mean", "mul", "rmul"}
            todo += flow.moving(op)
        else:
            for path in _behind(model, flow, op):
                found.reasons[path] = f"forward calls {op.name or 'a hidden function'} with what it gives"
    return found


def _add(model: nn.Module, flow: Dataflow, found: Layers, number: int) -> None:
    op = flow.recording.ops[number]
    path = owner(op, flow.parameters_of(op)) if op.function is not None else op.modules[-1]
    why = _why_not(model, path, flow.parameters_of(op))
    if why is None:
        found.ops.setdefault(path, number)
    else:
        found.reasons[path] = why


def _why_not(model: nn.Module, path: str, parameters: list[str]) -> str | None:
    """Why the module at ``path`` is no head site, though it is the last with parameters; None where it is one."""
    layer = model.get_submodule(path)
    if not path or isinstance(layer, _RECURRENT):
        return f"{', '.join(parameters) or 'what it computes'} is no layer that can be replaced"
    if not isinstance(layer, tuple(kind for kind, _ in _KINDS)) or isinstance(
        layer, nn.ConvTranspose2d | nn.ConvTranspose3d
    ):
        return f"it is a {type(layer).__name__}, and a head is a Linear, a Conv2d or a Conv3d"
    if getattr(layer, "groups", 1) != 1:
        return "it is a grouped convolution"
    if any(name.rpartition(".")[0] != path and not name.startswith(f"{path}.") for name in parameters):
        return "its weights are computed from those of another module"
    return None


def _behind(model: nn.Module, flow: Dataflow, op: Op) -> list[str]:
    """Paths of the layers before an op that scores do not pass: what the user may have meant."""
    found, todo, seen = [], flow.moving(op), set[int]()
    while todo and len(seen) < _FAR:
        number = flow.recording.producer.get(todo.pop())
        if number is None or number in seen:
            continue
        seen.add(number)
        each = flow.recording.ops[number]
        path = owner(each, flow.parameters_of(each)) if flow.parameters_of(each) else ""
        if path and isinstance(model.get_submodule(path), tuple(kind for kind, _ in _KINDS)):
            found.append(path)
        else:
            todo += flow.moving(each)
    return list(dict.fromkeys(found))[:5]


def _elements(model: nn.Module, name: str) -> int:
    owner_path, _, own = name.rpartition(".")
    tensor = getattr(model.get_submodule(owner_path), own)
    return int(tensor.numel())


def site(model: nn.Module, flow: Dataflow, path: str, number: int, role: Any) -> Head:  # noqa: ANN401 - one of the roles of a Head
    """The record of one head site.

    Args:
        model: What was recorded.
        flow: What depends on what in the recorded pass.
        path: The layer.
        number: Of the op in which it ran.
        role: As :class:`~zoo_core.Head` has them.
    """
    layer: Any = model.get_submodule(path)
    kind = next(kind for each, kind in _KINDS if isinstance(layer, each))
    moving = flow.moving(flow.recording.ops[number])
    tokens = kind == "linear" and bool(moving) and len(flow.recording.shapes[moving[0]]) > _VECTORS
    if kind == "linear":
        return Head(path, layer.in_features, layer.out_features, role=role, tokens=tokens)
    return Head(path, layer.in_channels, layer.out_channels, kind=kind, role=role)
