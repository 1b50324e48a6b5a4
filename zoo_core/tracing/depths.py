"""How deep layers outside the stages are: as the first stage that needs them, wherever they are registered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch.utils._pytree import tree_iter

from zoo_core.contract.anatomy import Anatomy
from zoo_core.surgery.select import depths_in, tensor_names
from zoo_core.surgery.structure import WALKED, under
from zoo_core.tracing.recording import Dataflow, Ref

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.tracing.passes import Passes


def with_depths(passes: Passes, anatomy: Anatomy) -> Anatomy:
    """The traced anatomy with the depths of layers outside its stages: they go to the stage that first needs them.

    Of those that are registered just before it, :func:`~zoo_core.surgery.select.depths` is right. Parameters that
    forward uses itself, and what no stage needs, are in ``depths``.
    """
    if not anatomy.stages:
        return anatomy
    model, names = passes.model, tensor_names(passes.model)
    sites = [site.path for site in anatomy.heads]
    head = {name for name in names if any(under(name, path) for path in sites)}
    depths, (needed, others) = depths_in(names, anatomy, head), _first_needed(passes, anatomy)
    first_need = {**others, **needed}
    late = {  # layers of the stem that the first stage does not need, as those of a branch
        path
        for path in anatomy.stem
        if min((first for name, first in first_need.items() if under(name, path)), default=1) != 1
    }
    known = [*sites, *({*anatomy.stem} - late), *(path for stage in anatomy.stages for path in stage.modules)]
    free = {name: first for name, first in needed.items() if not any(under(name, path) for path in known)}
    said, stages = dict[str, int](), []
    for depth, stage in enumerate(anatomy.stages, 1):
        own = [name for name, first in free.items() if first == depth]
        astray = [name for name in own if depth - depths[name] not in {0, 1}]
        layers = _modules_of_one_depth(model, astray, own, known)
        stages.append(replace(stage, modules=(*layers, *stage.modules)))
        place = depth if depth > 1 else 0  # what is in no layer, and comes before all stages, is as deep as the stem
        bare = (name for name in own if depths[name] != place and not any(under(name, path) for path in layers))
        said |= {name: place for name in bare if depth == 1 or name in astray or _is_bare(model, name, known)}
    for place in range(1, len(stages) + 2):
        own = [name for name, next_one in others.items() if next_one == place]
        early = [name for name in own if depths[name] < place and not any(under(name, path) for path in known)]
        layers = _modules_of_one_depth(model, early, own, known)
        bare = (name for name in early if not any(under(name, path) for path in layers))
        said |= dict.fromkeys([*layers, *bare], place)
    result = replace(anatomy, stages=tuple(stages), depths=tuple(said.items()))
    named = [*said, *known, *(path for stage in stages for path in stage.modules)]
    moved = depths_in(names, result, head)  # those that are registered after what is of a later stage now
    moved = {name: depths[name] for name, depth in moved.items() if depth != depths[name]}
    moved = {name: depth for name, depth in moved.items() if not any(under(name, path) for path in named)}
    return replace(result, depths=(*result.depths, *moved.items()))


def _first_needed(passes: Passes, anatomy: Anatomy) -> tuple[dict[str, int], dict[str, int]]:
    """The depths of tensors that traced stages need: the number of the first one, from 1; in the order they are used.

    And for each other one that leads to an output, as of an exit or a decoder, the stage that comes next when it runs:
    one more than there are after all of them.
    """
    needed, others = dict[str, int](), dict[str, int]()
    for flow in [passes.evaluated, *([passes.trained] if passes.trained else [])]:
        first, ends = dict[int, int](), list[int]()
        for depth, stage in enumerate(anatomy.stages, 1):
            calls = [call for call in flow.recording.calls() if call.path == stage.output]
            ends += [call.end for call in calls[:1]]
            for number in flow.ancestors(value for call in calls for value in call.outputs):
                first.setdefault(number, depth)
        outputs = [each.value for each in tree_iter(flow.recording.root.output) if isinstance(each, Ref)]
        for number in sorted({*first, *flow.ancestors(outputs)}):
            result, place = (
                (needed, first[number]) if number in first else (others, 1 + sum(end <= number for end in ends))
            )
            for name in _tensors_at(passes, flow, number):
                result[name] = min(result.get(name, place), place)
    return needed, {name: place for name, place in others.items() if name not in needed}


def _tensors_at(passes: Passes, flow: Dataflow, number: int) -> Iterable[str]:
    """Names of the tensors that are as deep as a recorded op: those it uses, or all of a module that torch hides."""
    op = flow.recording.ops[number]
    if op.function is not None:
        return flow.parameters_of(op)
    path = op.modules[-1]
    return [name for name in tensor_names(passes.model) if path and under(name, path)]


def _modules_of_one_depth(
    model: nn.Module, names: Iterable[str], own: Collection[str], known: Sequence[str]
) -> list[str]:
    """The largest modules of one depth around tensors: with none beside ``own``, and with no ``known`` part."""
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    result: dict[str, None] = {}
    for name in names:
        steps = name.split(".")[:-1]
        paths = [".".join(steps[:end]) for end in range(1, len(steps) + 1)]
        called = [path for path in paths if not isinstance(model.get_submodule(path), WALKED)]
        alone = [path for path in called if all(each in own for each in parameters if under(each, path))]
        result |= dict.fromkeys([path for path in alone if not any(under(each, path) for each in known)][:1])
    return [*result]


def _is_bare(model: nn.Module, name: str, known: Sequence[str]) -> bool:
    """Whether a tensor has a depth of its own, in no layer: in the model, a list or a module around ``known`` parts."""
    owner = name.rpartition(".")[0]
    is_listed = isinstance(model.get_submodule(owner), WALKED)
    return not owner or is_listed or any(under(path, owner) for path in known)
