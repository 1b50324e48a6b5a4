"""The proof of traced stages: all images lead to the last one, which has one map; and all maps lie alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from zoo_core.contract.anatomy import Anatomy, Stage
from zoo_core.tracing.feature_maps import (
    SeveralMaps,  # noqa: F401 - pickles of before name it here
)
from zoo_core.tracing.last_layers import VECTORS, Layers
from zoo_core.tracing.stage_finder import in_two_layouts

if TYPE_CHECKING:
    from zoo_core.tracing.feature_maps import Grid
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


def _unseen_images(passes: Passes, grid: Grid, stages: Sequence[Stage]) -> set[int]:
    """The images that refute traced stages: they do not lead to the last one, however often that runs."""
    recording = passes.evaluated.recording
    images = {value for value in recording.inputs if len(recording.shapes[value]) == grid.axes}
    made = [value for call in recording.calls() if call.path == stages[-1].output for value in call.outputs]
    used = {value for number in passes.evaluated.ancestors(made) for value in recording.ops[number].inputs}
    return images - used


def _layers_outside(flow: Dataflow, anatomy: Anatomy, main: Layers) -> int:
    """How many layers are outside the stages to prove; 0 where these are fewer than what runs up to the last stage.

    Layers after a stage count only where the stages hold no more than the stem: what follows others is a decoder.
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
    downstream = layers(number for number in others if not after.isdisjoint(recording.ops[number].outputs))
    missed = beside if {*own} - {*anatomy.stem} else [*beside, *downstream]
    missed = [path for path in missed if path not in heads]
    return len(missed) if len(missed) >= len(own) else 0
