"""The proof of traced stages: all images lead to the last one, which has one map; and all maps lie alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from zoo_core.errors import NotSupported
from zoo_core.tracing.last_layers import VECTORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoo_core.contract.anatomy import Anatomy, Stage
    from zoo_core.tracing.feature_maps import Grid
    from zoo_core.tracing.last_layers import Layers
    from zoo_core.tracing.passes import Passes
    from zoo_core.tracing.recording import Dataflow


_COMPUTING = ("conv", "linear", "multi_head_attention", "transformer_encoder_layer")
"""How the ops begin that compute features."""


def unproven_stages(passes: Passes, grid: Grid, anatomy: Anatomy, main: Layers, chosen: object) -> str | None:
    """Why the stages of a traced model do not count as proven; None if they do."""
    if not anatomy.stages:
        return "no module ends with a map, or tokens of an image, before the resolution changes"
    if chosen is not None:
        return None
    if both := in_two_layouts(passes, grid, anatomy.stages):
        return f"{both}; stages= names those of one"
    if unseen := _unseen_images(passes, grid, anatomy.stages):
        return (
            "the last stage is not computed from all images that forward takes "
            f"({len(unseen)} missing); stages= names them"
        )
    if count := _layers_outside(passes.evaluated, anatomy, main):
        where = "run beside or after the last stage"
        return f"layers that work on maps or tokens {where} ({count} of them); stages= names them"
    return None


@dataclass(frozen=True)
class SeveralMaps:
    """In the place of what reads the map of a traced stage: forward runs it on several inputs, one after another.

    Attributes:
        path: The module that gives the maps.
        count: How many.
    """

    path: str
    count: int

    def __call__(self, _model: object, _output: object) -> NoReturn:
        """Read no map.

        Raises:
            NotSupported: Always: which of them is meant is not known.
        """
        raise NotSupported(
            f"the stage that ends with {self.path!r} has {self.count} feature maps, and which is meant is not known",
            cause=f"forward runs {self.path!r} {self.count} times, each time on another input",
            hint=f"zoo.adopt(model.get_submodule({self.path.partition('.')[0]!r}), example=...), the part that runs so "
            "often, gives one map for each input; freezing, heads and saving work on the whole",
        )


def with_several_maps(flow: Dataflow, anatomy: Anatomy) -> Anatomy:
    """The traced anatomy whose stages read no map where forward runs them on several inputs, as in a Siamese network.

    A stage that is run on what it gave itself before has the map that it gave last.
    """
    calls: dict[str, list[list[int]]] = {}
    for call in flow.recording.calls():
        calls.setdefault(call.path, []).append(call.outputs)
    stages = []
    for stage in anatomy.stages:
        *before, last = calls[stage.output]
        ancestors = flow.ancestors(last)
        own = (any(flow.recording.producer.get(value, -1) in ancestors for value in each) for each in before)
        several = SeveralMaps(stage.output, len(before) + 1)
        stages.append(stage if all(own) else replace(stage, read=several))
    return replace(anatomy, stages=tuple(stages))


def in_two_layouts(passes: Passes, grid: Grid, stages: Sequence[Stage]) -> str | None:
    """Which stages' maps do not lie alike, channels first or last; None where all that are no tokens agree."""
    found: dict[str, list[str]] = {}
    outputs = {call.path: call.output for call in passes.evaluated.recording.calls()}
    for stage in stages:
        made = stage.map_in(passes.model, outputs[stage.output])
        result = grid.map_of(made.value)
        found.setdefault(result.layout if result else "", []).append(stage.output)
    if not {"NCHW", "NHWC"} <= {*found}:
        return None
    named = (f"{', '.join(map(repr, found[layout]))} give {layout}" for layout in ("NCHW", "NHWC"))
    return f"they end with maps in two layouts: {' and '.join(named)}"


def _unseen_images(passes: Passes, grid: Grid, stages: Sequence[Stage]) -> set[int]:
    """The images of a traced input that do not lead to the last stage, however often that runs."""
    recording = passes.evaluated.recording
    images = {value for value in recording.inputs if len(recording.shapes[value]) == grid.axes}
    made = [value for call in recording.calls() if call.path == stages[-1].output for value in call.outputs]
    used = {value for number in passes.evaluated.ancestors(made) for value in recording.ops[number].inputs}
    return images - used


def _layers_outside(flow: Dataflow, anatomy: Anatomy, main: Layers) -> int:
    """How many layers are outside the stages to prove; 0 where these are fewer than what runs up to the last stage.

    Layers after a stage count only where the stages hold no more than the stem: what follows others is a decoder.

    Args:
        flow: The pass.
        anatomy: Its stages, stem and heads.
        main: The main output, and the last layers before it.
    """
    recording = flow.recording
    ends = {stage.output for stage in anatomy.stages}
    made = {call.path: {*call.outputs} for call in recording.calls() if call.path in ends}
    last = [value for call in recording.calls() if call.path == anatomy.stages[-1].output for value in call.outputs]
    before, after = flow.ancestors(last), {value for values in made.values() for value in values}
    for op in recording.ops:
        if not after.isdisjoint(op.inputs):
            after.update(op.outputs)

    def layers(numbers: Iterable[int]) -> list[str]:
        ops = (recording.ops[number] for number in sorted(numbers))
        computing = (op for op in ops if op.name.startswith(_COMPUTING) and op.parameters)
        of_maps = (op for op in computing if len(recording.shapes[op.outputs[0]]) > VECTORS)
        return list(dict.fromkeys(op.parameters[0].rpartition(".")[0] for op in of_maps))

    own, heads = layers(before), {*(head.path for head in anatomy.heads), *main.ops}
    others = flow.ancestors([main.value]) - before
    beside = layers(number for number in others if after.isdisjoint(recording.ops[number].outputs))
    behind = layers(number for number in others if not after.isdisjoint(recording.ops[number].outputs))
    missed = beside if {*own} - {*anatomy.stem} else [*beside, *behind]
    missed = [path for path in missed if path not in heads]
    return len(missed) if len(missed) >= len(own) else 0
