"""Layers that run between two stages and belong to none: they are of the later one, wherever they are registered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zoo_core.surgery.select import depths_in, tensor_names
from zoo_core.surgery.structure import under

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.tracing.passes import Passes


def with_layers_between(passes: Passes, anatomy: Anatomy) -> Anatomy:
    """The traced anatomy with layers in the stage that first needs them, where they are registered among others.

    Where they are registered just before it, :func:`~zoo_core.surgery.select.depths` has them right.

    Args:
        passes: The recorded model.
        anatomy: Its stem, heads and stages.
    """
    names = tensor_names(passes.model)
    sites = [site.path for site in anatomy.heads]
    head = {name for name in names if any(under(name, path) for path in sites)}
    depths, needed = depths_in(names, anatomy, head), _first_stages(passes, anatomy)
    known = [*sites, *anatomy.stem, *(path for stage in anatomy.stages for path in stage.modules)]
    astray = {
        name: first
        for name, first in needed.items()
        if first - depths[name] not in {0, 1} and not any(under(name, path) for path in known)
    }
    if not astray:
        return anatomy
    parameters = [name for name, _ in passes.model.named_parameters(remove_duplicate=False)]
    stages = []
    for depth, stage in enumerate(anatomy.stages, 1):
        own = [name for name in needed if astray.get(name) == depth]
        layers = dict.fromkeys(path for name in own for path in _layers_around(name, parameters, own, known))
        stages.append(replace(stage, modules=(*layers, *stage.modules)))
    return replace(anatomy, stages=tuple(stages))


def _first_stages(passes: Passes, anatomy: Anatomy) -> dict[str, int]:
    """For each tensor that a stage needs, the first one that does, counted from 1; in the order that they are used."""
    flow = passes.evaluated
    ops, first = flow.recording.ops, dict[int, int]()
    for depth, stage in enumerate(anatomy.stages, 1):
        made = [value for call in flow.recording.calls() if call.path == stage.output for value in call.outputs]
        for number in flow.ancestors(made):
            first.setdefault(number, depth)
    result: dict[str, int] = {}
    for number in sorted(first):
        for name in flow.parameters_of(ops[number]):
            result[name] = min(result.get(name, first[number]), first[number])
    return result


def _layers_around(name: str, parameters: Sequence[str], own: Collection[str], known: Sequence[str]) -> list[str]:
    """The largest module with a tensor, and none beside ``own``, as a list; none if it holds a ``known`` part."""
    steps = name.split(".")[:-1]
    paths = [".".join(steps[:end]) for end in range(1, len(steps) + 1)]
    alone = [path for path in paths if all(each in own for each in parameters if under(each, path))] or paths[-1:]
    return [path for path in alone[:1] if not any(under(each, path) for each in known)]
