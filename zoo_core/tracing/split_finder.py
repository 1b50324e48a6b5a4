"""How forward splits: features, pool and classify, the proof that they are the model, and forward run to a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.chain import Chain
from zoo_core.surgery.changed_by_hand import RANDOM
from zoo_core.surgery.features.split import Backbone, RunTo
from zoo_core.tracing.last_layers import Layers, last_layers
from zoo_core.tracing.passes import Passes, output_of, same_place
from zoo_core.tracing.program import Item, Untraceable, has_types, piece
from zoo_core.tracing.recording import Dataflow, Ref
from zoo_core.utils.duplicate import with_the_same_tensors
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from zoo_core.tracing.feature_maps import Grid

Piece = Callable[[Any, Any], Any]


_SIGNAL = 3
"""Axes of ``[N, C, L]``."""

READS = "its forward takes values of its input as Python's, and does other things for other values"


def with_split(passes: Passes, anatomy: Anatomy, main: Layers, grid: Grid) -> Anatomy:
    """Find how the recorded forward splits, and give the anatomy with that split; not proven yet."""
    scores = Item(main.key) if main.key else None
    anatomy = replace(anatomy, scores=scores)
    sites = [head for head in anatomy.heads if head.role != "aux"]
    try:
        starts = [_head_inputs(flow, sites) for flow in passes.flows]
        ends = {flow: end for flow in passes.flows if (end := _main_scores(flow, main, passes))}
        given = [start for flow, start in zip(passes.flows, starts, strict=True) if flow in ends]
        classify: Any = piece([*ends], given, [*ends.values()], expand=_around(site.path for site in sites))
    except Untraceable as error:
        return replace(anatomy, indivisible=f"what follows its head cannot be written down: {error}")
    if classify in (Chain(sites[0].path), Chain()):  # nothing at all after a place for a head
        classify = None
    reads = any(flow.reads_input for flow in passes.flows)
    if reads and classify is not None:
        return replace(anatomy, indivisible=READS)
    features, pool = (None, None) if reads else _front(passes, anatomy, grid, starts)
    if has_types(features) or has_types(pool):
        features, pool = None, None  # they would make tensors of the example's dtype for a model in another
    if features is None and len(starts[0]) > 1:
        return replace(anatomy, indivisible="its heads are given different tensors, and no module gives both")
    recording = passes.evaluated.recording
    is_plain = not reads and classify is None and len(recording.inputs) == 1 and not recording.root.kwargs
    # with deep supervision forward gives more when it trains, which is not what the head is given
    is_plain &= len({tree_structure(flow.recording.root.output) for flow in passes.flows}) == 1
    if features is None and not is_plain:
        features, pool = RunTo(sites[0].path, before=True, runs=_modules_for(passes.evaluated, starts[0])), Chain()
    return replace(anatomy, features=features, pool=pool, classify=classify)


def _head_inputs(flow: Dataflow, sites: Sequence[Head]) -> list[int]:
    """Inputs of the head sites, each tensor once: the split of forward is before them."""
    calls = {call.path: call for call in flow.recording.calls()}
    result = []
    for site in sites:
        if site.path not in calls:
            raise Untraceable(f"{site.path} does not run in train mode")
        args = calls[site.path].args
        if len(args) != 1 or not isinstance(args[0], Ref) or calls[site.path].kwargs:
            raise Untraceable(f"{site.path} is given more than one tensor")
        result.append(args[0].value)
    return list(dict.fromkeys(result))


def _main_scores(flow: Dataflow, main: Layers, passes: Passes) -> Ref | None:
    """The main scores of a pass, which the split ends with; in train mode the first of the same layers, if any."""
    output: Any = flow.recording.root.output
    if flow is not passes.trained:
        for step in main.key:
            output = output[step]
    elif not isinstance(output, Ref):
        same = [each.value for each in last_layers(passes.model, flow) if {*each.ops} == {*main.ops}]
        return Ref(same[0]) if same else None
    if not isinstance(output, Ref):
        raise Untraceable("forward returns no tensor there")
    return output


def _around(paths: Iterable[str]) -> set[str]:
    """Paths of the modules around those of a split, whose parts are steps of their own."""
    return {path[:end] for path in paths for end in range(len(path)) if path[end] == "."}


def _front(passes: Passes, anatomy: Anatomy, grid: Grid, starts: list[list[int]]) -> tuple[Piece | None, Piece | None]:
    """Find the pieces of a split before the head: features up to the last map that all passes through, and the pool."""
    flow = passes.evaluated
    expand = _around([*(path for stage in anatomy.stages for path in stage.modules), *(h.path for h in anatomy.heads)])
    last = anatomy.stages[-1].output if anatomy.stages else None
    until = next((call.end for call in flow.recording.calls() if call.path == last), 0)
    for value in reversed(flow.cuts(starts[0])):
        made = flow.recording.producer.get(value, -1)
        if grid.map_of(value) is None or made < 0:
            continue
        if made < until - 1 and all(call.path != last for call in flow.recording.calls_that_give(value)):
            break  # before the last stage, which gives several tensors
        places = [same_place(flow, other, value) for other in passes.flows]
        if any(place is None for place in places):
            continue
        cut: list[int] = [place for place in places if place is not None]
        try:
            ends = [Ref(start[0]) if len(start) == 1 else tuple(map(Ref, start)) for start in starts]
            pool = piece(passes.flows, [[each] for each in cut], ends, expand)
            features = _features(passes, cut, expand)
        except Untraceable:
            continue
        if features is not None:
            return features, pool
    return None, None


def _features(passes: Passes, cut: list[int], expand: set[str]) -> Piece | None:
    """Find the features piece of the split: what runs before the cut, as a program or as forward run to a module."""
    if all(len(flow.recording.inputs) == 1 and not flow.recording.root.kwargs for flow in passes.flows):
        try:
            inputs = [flow.recording.inputs for flow in passes.flows]
            result = piece(passes.flows, inputs, [Ref(value) for value in cut], expand)
        except Untraceable:
            result = None
        if isinstance(result, Chain):
            return result
    calls = passes.evaluated.recording.calls_that_give(cut[0])
    path = next((call.path for call in calls if isinstance(call.output, Ref)), None)  # in no object
    return RunTo(path, runs=_modules_for(passes.evaluated, cut[:1])) if path else None


def _modules_for(flow: Dataflow, values: list[int]) -> tuple[str, ...]:
    """Paths of the modules that compute some tensors, for a split that is found and runs forward itself up to them."""
    ops = flow.recording.ops
    return tuple(dict.fromkeys(path for number in sorted(flow.ancestors(values)) for path in ops[number].modules))


def proven(model: nn.Module, anatomy: Anatomy, example: Any) -> Anatomy:
    """The anatomy with its split proven, as far as it gives what forward gives, bit for bit, on noise.

    Where the pieces that were written down hold for images of the example's size alone, as those of a forward that
    pads, forward itself is run to the head instead.

    Args:
        model: With its values; one on the meta device proves shapes only.
        anatomy: What was recorded.
        example: What forward takes, as it was recorded.
    """
    x = _noise_like(example)
    model = with_the_same_tensors(model)
    simple, tried = replace(anatomy, features=None, pool=None), [anatomy]
    if anatomy.features is not None and anatomy.main:
        tried += [simple] if anatomy.classify is None else []
        tried.append(replace(anatomy, features=RunTo(anatomy.main.path, before=True), pool=Chain()))
    for each in tried:
        if _split_equals_forward(model, each, x) and _holds_for_another_size(model, each, x):
            return each
    again = [output_of(model, x) for _ in range(2)]
    cause = "its parts, run one after another, do not give what its forward gives" if same(*again) else RANDOM
    return replace(simple, classify=None, indivisible=anatomy.indivisible or cause)


def _holds_for_another_size(model: nn.Module, anatomy: Anatomy, x: Any) -> bool:
    """Whether the split holds for images whose sides are no multiple of what they were, if the model runs on such."""
    odd = _odd_sized(x)
    try:
        output_of(model, odd)
    except Exception:  # noqa: BLE001 - the model's own code, which takes images of other sizes
        return True
    return _split_equals_forward(model, anatomy, odd)


def _odd_sized(x: Any) -> Any:
    """The input for the proof of a split with a few pixels more on each side of its images, or of its signals."""

    def pad(each: object) -> object:
        if not isinstance(each, Tensor) or each.dim() < _SIGNAL or not each.is_floating_point():
            return each
        sides = min(each.dim() - 2, 3)
        return functional.pad(each, [0, 3] * sides, value=0.5)

    return tree_map(pad, x)


def _split_equals_forward(model: nn.Module, anatomy: Anatomy, x: Any) -> bool:
    """Whether the pieces of a split that was found, run together, give what forward gives, bit for bit."""
    if anatomy.indivisible or anatomy.main is None:
        return False
    head = anatomy.classify or Chain(anatomy.main.path)
    try:
        whole = anatomy.scores_in(output_of(model, x))
        with torch.no_grad(), evaluating(model), MetaShapes():
            scores = head(model, Backbone(model, anatomy)(x))
        return same(scores, whole)
    except Exception:  # noqa: BLE001 - the model's own code; what fails is not proven
        return False


def same(one: Any, other: Any) -> bool:
    """Whether the split gives what forward gives, bit for bit; of tensors without values, whether shapes are equal."""
    pairs = list(zip(tree_leaves(one), tree_leaves(other), strict=False))
    return len(tree_leaves(one)) == len(tree_leaves(other)) and all(_same_values(a, b) for a, b in pairs)


def _same_values(a: object, b: object) -> bool:
    """Whether a value of a split that was found is equal to forward's, for the proof; without values, its shape."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return bool(a == b)
    if a.is_meta or b.is_meta:
        return a.shape == b.shape
    infinite = float("inf")
    one, other = (each.nan_to_num(0.0, infinite, -infinite) for each in (a, b))
    return a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and torch.equal(one, other)


def _noise_like(example: Any) -> Any:
    """An example to prove the split on, with noise for floating-point tensors: zeros hide what they multiply."""
    generator = torch.Generator().manual_seed(0)

    def fill(each: object) -> object:
        if not isinstance(each, Tensor) or not each.is_floating_point() or each.is_meta:
            return each
        return torch.randn(each.shape, generator=generator, device="cpu").to(each)

    return tree_map(fill, example)
