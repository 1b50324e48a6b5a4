"""The heads of a detector: scores of the classes, and four numbers a class for the box, of the same features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._pytree import tree_structure

from zoo_core.contract.anatomy import Head
from zoo_core.tracing.passes import run
from zoo_core.tracing.recording import plain_fields
from zoo_core.utils.eval_mode import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from zoo_core.tracing.passes import Passes
    from zoo_core.tracing.recording import Dataflow

    Widened = Callable[[nn.Module, tuple[Head, ...]], AbstractContextManager[None]]

_BOX = 4
"""Numbers of a box."""
INDIVISIBLE = "a detector scores many places of its maps, and not one vector an image"


def box_heads(passes: Passes, last: Iterable[str], widened: Widened) -> tuple[Head, ...]:
    """The heads of a traced detector: its sites of class scores, boxes and masks; none where they are not plain.

    Scores are chosen by their values, so the proof is that forward still runs when all of them have more classes.

    Args:
        passes: The recorded model.
        last: Paths of the last layers before its outputs.
        widened: Gives sites more classes as long as its block lasts.
    """
    model, flow = passes.model, passes.evaluated
    if not isinstance(passes.x, list):
        return ()
    numbers: dict[str, int] = {}
    for number, op in enumerate(flow.recording.ops):
        for name in flow.parameters_of(op):
            numbers.setdefault(name.rpartition(".")[0], number)
    layers = {path: model.get_submodule(path) for path in dict.fromkeys(last) if path in numbers}
    linear = {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}
    pairs = [
        (one, other)
        for one in linear
        for other in linear
        if linear[other].out_features == _BOX * linear[one].out_features
        and flow.moving(flow.recording.ops[numbers[one]]) == flow.moving(flow.recording.ops[numbers[other]])
    ]
    if len(pairs) != 1:
        return ()
    (scores, boxes), width = pairs[0], linear[pairs[0][0]].in_features
    classes = linear[scores].out_features
    heads = [Head(scores, width, classes), Head(boxes, width, classes, role="box", per_class=_BOX)]
    heads += [
        Head(path, layer.in_channels, classes, "conv", role="mask")
        for path, layer in ((path, model.get_submodule(path)) for path in numbers if numbers[path] > numbers[scores])
        if isinstance(layer, nn.Conv2d) and layer.out_channels == classes and _is_last(flow, numbers[path])
    ]
    return tuple(heads) if _runs(passes, tuple(heads), widened) else ()


def _is_last(flow: Dataflow, number: int) -> bool:
    """Whether no layer takes what that op of a detector gives: masks are pasted box by box, in hundreds of ops."""
    reached = {*flow.recording.ops[number].outputs}
    for op in flow.recording.ops[number + 1 :]:
        if not reached.isdisjoint(op.inputs):
            if flow.parameters_of(op):
                return False
            reached.update(op.outputs)
    return True


def _runs(passes: Passes, heads: tuple[Head, ...], widened: Widened) -> bool:
    """Whether a detector with wider heads runs, and gives outputs of the same structure."""
    try:
        with torch.no_grad(), evaluating(passes.model), widened(passes.model, heads):
            made = run(passes.model, passes.x)
    except Exception:  # noqa: BLE001 - the model's own code
        return False
    return tree_structure(plain_fields(made)) == tree_structure(passes.evaluated.recording.root.output)
