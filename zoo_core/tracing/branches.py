"""Modules that give a part of a feature map only: branches that are joined, and experts that are given some samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.utils._pytree import tree_iter

from zoo_core.tracing.recording import Ref

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from zoo_core.tracing.feature_maps import Grid
    from zoo_core.tracing.recording import Dataflow, Op

_SUMS = frozenset({"add", "radd", "iadd"})
_WRITES = frozenset({"setitem", "index_put", "index_copy", "index_add", "scatter", "scatter_add", "masked_scatter"})
"""Functions that write a tensor into a part of another: into some samples, as in mixtures of experts."""


def gives_part(grid: Grid, path: str, outputs: Collection[int]) -> bool:
    """Whether what a module gives is a part of a map, of which no module gives the whole.

    Its input is added to it; or it is written into a part of another tensor; or it is joined with what other layers
    compute from the same input, as in ``gate * one(x) + (1 - gate) * other(x)``.

    Args:
        grid: Reads the feature maps of the pass.
        path: The module.
        outputs: The tensors that it gives and that are needed later, with a map among them.
    """
    flow = grid.flow
    given = _given(flow, path)
    if any(op.name in _SUMS and not given.isdisjoint(op.inputs) for op in _users(flow, outputs)):
        return True
    main = next(value for value in sorted(outputs) if grid.map_of(value))
    source, joins, todo, own = _before_layers(flow, given), list[bool](), [main], {main}
    while todo:
        for op in _users(flow, [todo.pop()]):
            maps = [value for value in flow.moving(op) if value not in own and _is_alike(grid, value, main)]
            if op.name in _WRITES:
                joins.append(True)
            elif flow.parameters_of(op) or maps:
                joins.append(any(_is_beside(grid, value, source, main) for value in maps))
            else:
                new = [value for value in op.outputs if value not in own]
                own.update(new)
                todo += new
    return bool(joins) and all(joins)


def _given(flow: Dataflow, path: str) -> set[int]:
    """The tensors that a module is given."""
    calls = (call for call in flow.recording.calls() if call.path == path)
    return {each.value for call in calls for each in tree_iter((call.args, call.kwargs)) if isinstance(each, Ref)}


def _users(flow: Dataflow, values: Iterable[int]) -> list[Op]:
    """The ops that are given one of these tensors."""
    return [op for op in flow.recording.ops if not {*values}.isdisjoint(op.inputs)]


def _is_alike(grid: Grid, value: int, main: int) -> bool:
    """Whether a tensor is a map of the same stride as another."""
    one, two = grid.map_of(value), grid.map_of(main)
    return one is not None and two is not None and one.stride == two.stride


def _before_layers(flow: Dataflow, given: Iterable[int]) -> set[int]:
    """The tensors that a module is given, and those they are made of without layers, such as ``x`` of ``x[i]``."""
    result, todo = {*given}, [*given]
    while todo:
        op = flow.recording.producer.get(todo.pop())
        if op is not None and not flow.parameters_of(flow.recording.ops[op]):
            new = [value for value in flow.moving(flow.recording.ops[op]) if value not in result]
            result.update(new)
            todo += new
    return result


def _is_beside(grid: Grid, value: int, source: set[int], main: int) -> bool:
    """Whether layers compute a tensor from the ``source`` of a module and no other map, without its ``main`` output.

    What has fewer numbers than the map has places is no map, but a gate.
    """
    recording, made = grid.flow.recording, grid.map_of(main)
    places = math.prod(recording.shapes[main]) // made.channels if made else 0
    todo, seen, has_layers = [value], {value}, False
    while todo:
        number = recording.producer.get(todo.pop())
        if number is None or main in recording.ops[number].outputs:
            return False
        op = recording.ops[number]
        has_layers = has_layers or bool(grid.flow.parameters_of(op))
        maps = [each for each in grid.flow.moving(op) if math.prod(recording.shapes[each]) >= places]
        todo += [each for each in maps if each not in source and each not in seen]
        seen.update(maps)
    return has_layers and value not in source and not seen.isdisjoint(source)
