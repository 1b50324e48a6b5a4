"""``zoo.trace``: the anatomy of any module, found by running it and proven; and what could not be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from zoo_core.contract.anatomy import CANDIDATES, UNPROVEN, Anatomy, Stage
from zoo_core.errors import AnatomyError, UsageError
from zoo_core.surgery.metadata import unwrap
from zoo_core.text import close_matches, did_you_mean
from zoo_core.tracing.detectors import INDIVISIBLE
from zoo_core.tracing.feature_maps import Grid
from zoo_core.tracing.head_finder import can_be_head, find_heads
from zoo_core.tracing.head_proof import NoHead
from zoo_core.tracing.last_layers import VECTORS, Layers, owner
from zoo_core.tracing.passes import duplicate, record_passes
from zoo_core.tracing.program import run
from zoo_core.tracing.recording import ShapesOnly
from zoo_core.tracing.split_finder import proven, with_split
from zoo_core.tracing.stage_finder import find_stages
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.attributes import get_attribute, is_of_module, repeated_numbers, set_attribute
from zoo_core.utils.eval_mode import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zoo_core.tracing.passes import Passes
    from zoo_core.tracing.recording import Dataflow


_COMPUTING = ("conv", "linear", "multi_head_attention", "transformer_encoder_layer")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNEL_COUNTS = frozenset(
    {
        "num_channels",
        "n_channels",
        "in_channels",
        "in_chans",
        "in_ch",
        "input_channels",
        "num_input_channels",
        "channels",
    }
)
_JOINING = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})
"""Functions after which the input is still there as it was, beside features."""


@dataclass(frozen=True)
class Trace:
    """What one run of a module shows of it.

    Attributes:
        anatomy: All that was proven.
        missing: What was not, ``"head"``, ``"stages"`` or ``"split"``, and why.
        candidates: Paths of the layers that ``head=`` may name, where none was proven.
        norms: Paths of the normalization layers.
        any_size: Whether it takes images twice as large.
        is_batched: Whether it takes batches of any size; else the example is all of an input, as a graph is.
    """

    anatomy: Anatomy
    missing: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    any_size: bool = False
    is_batched: bool = True


@strict_arguments
def trace(
    model: nn.Module,
    example: Any,
    *,
    head: str | None = None,
    stages: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
) -> Trace:
    """Find the anatomy of a module that no plugin declared, from a few passes without values; no name is consulted.

    The model is not changed. What is found is proven before it is believed: the head by replacing it, the split by
    running its parts and comparing bit for bit.

    Args:
        model: Any module.
        example: What forward takes: one value, a tuple of several arguments, or a dict of them by name. The first axis
            of a tensor is the batch; where batches made so do not run, as those of a graph, it is taken as it is.
        head: Path of the main head site, where the model has several or none is found.
        stages: Paths of the modules that end the stages; or names to the paths of each stage's modules.

    Returns:
        The anatomy, and what could not be proven.

    Raises:
        AnatomyError: The model does not run on the example, or what you named cannot be proven.
        UsageError: There is no example, or the model is no module.

    Example:
        >>> import torch, zoo_core as zoo
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(600, 10))
        >>> found = zoo.trace(net, torch.zeros(1, 1, 24, 24))
        >>> found.anatomy.main.path, found.anatomy.stem, list(found.missing)
        ('4', ('0',), [])
    """
    bare = unwrap(model)
    _require_runnable(bare, example)
    passes = record_passes(bare, example)
    grid = Grid(passes.evaluated, passes.larger)
    missing: dict[str, str] = {}
    candidates: tuple[str, ...] = ()
    last: Sequence[str] = ()
    try:
        heads, main = find_heads(passes, head)
    except NoHead as error:
        if head is not None:
            raise _refused_head(bare, head, error) from None
        missing["head"], last = error.why, error.candidates
        candidates = tuple(each for each in last if can_be_head(passes, each))
        heads, main = (), error.last or Layers((), (passes.evaluated.recording.root.outputs or [0])[0])
    stem = _stem_of(passes)
    anatomy = Anatomy(
        heads,
        stem=stem,
        headless=_headless(missing.get("head"), candidates, last),
        channel_attributes=_channel_counts(passes, stem),
    )
    anatomy = _with_stages(passes, anatomy, main, grid, stages)
    if any(each.role == "box" for each in heads):
        anatomy = replace(anatomy, indivisible=INDIVISIBLE)
    elif heads:
        anatomy = proven(bare, with_split(passes, anatomy, main, grid), _example_on_device(passes.example, bare))
    if anatomy.indivisible:
        missing["split"] = anatomy.indivisible
    if why := _unproven_stages(passes, grid, anatomy, main, stages):
        anatomy, missing["stages"] = replace(anatomy, stages=()), why
    norms = tuple(path for path, module in bare.named_modules() if _is_norm(module))
    is_batched = passes.example is not example
    return Trace(anatomy, missing, candidates, norms, any_size=passes.any_size, is_batched=is_batched)


def _require_runnable(model: object, example: Any) -> None:
    """Refuse to trace without an example, or what is no model that can be run."""
    if not any(isinstance(each, Tensor) for each in tree_leaves(example)):
        raise UsageError(
            "there is nothing to run the model on",
            expected="example= to hold what forward takes, such as torch.zeros(1, 3, 224, 224)",
        )
    if isinstance(model, type):
        raise UsageError(
            f"{model.__name__} is a class, and no model yet",
            expected="an nn.Module",
            hint=f"{model.__name__}() makes one",
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a {type(model).__name__} is no model", expected="an nn.Module", hint="give the module itself"
        )


def _unproven_stages(passes: Passes, grid: Grid, anatomy: Anatomy, main: Layers, chosen: object) -> str | None:
    """Why ``zoo.trace`` does not count the stages of a model as proven; None if it does."""
    if not anatomy.stages:
        return "no module ends with a map, or tokens of an image, before the resolution changes"
    if chosen is None and (unseen := _unseen_images(passes, grid, anatomy.stages)):
        return (
            "the last stage is not computed from all images that forward takes "
            f"({len(unseen)} missing); stages= names them"
        )
    if chosen is None and (count := _layers_outside(passes.evaluated, anatomy, main)):
        where = "run beside or after the last stage"
        return f"layers that work on maps or tokens {where} ({count} of them); stages= names them"
    return None


def _layers_outside(flow: Dataflow, anatomy: Anatomy, main: Layers) -> int:
    """For a trace, how many layers its stages miss; 0 where these are fewer than what runs up to the last stage.

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


def _refused_head(model: nn.Module, head: str, error: NoHead) -> AnatomyError:
    """Error of a trace for a head that the user named and tracing does not prove."""
    others = [each for each in error.candidates if each != head]
    return AnatomyError(
        f"{head!r} is not proven to be a head of this {type(model).__name__}",
        got=error.why,
        hint=f"{CANDIDATES} {' or '.join(map(repr, others[:4]))}"
        if others
        else "give anatomy=zoo.Anatomy(...) too, to say by hand where its parts are",
    )


def _headless(why: str | None, candidates: Sequence[str], last: Sequence[str]) -> str | None:
    """Message of a ``Trace`` on why no head is proven, with the candidates for one."""
    if why is None:
        return None
    named = f"; {CANDIDATES} {' or '.join(map(repr, candidates[:4]))}" if candidates else ""
    if last and not candidates:
        named = f"; none of its last layers can be one: {', '.join(map(repr, last[:4]))}"
    return f"{UNPROVEN}: {why}{named}"


def _with_stages(passes: Passes, anatomy: Anatomy, main: Layers, grid: Grid, chosen: Any) -> Anatomy:
    """The traced anatomy with its stages, found or as the user names them."""
    if chosen is not None:
        stages, layout = _declared_stages(passes, grid, chosen)
        return replace(anatomy, stages=stages, layout=layout)
    flow = passes.evaluated
    before = [value for number in main.ops.values() for value in flow.moving(flow.recording.ops[number])]
    stages, layout = find_stages(passes.model, grid, before or [main.value], anatomy)
    return replace(anatomy, stages=stages, layout=layout)


def _unseen_images(passes: Passes, grid: Grid, stages: Sequence[Stage]) -> set[int]:
    """The images of a traced input that the last stage is not computed from, however often it runs."""
    recording = passes.evaluated.recording
    images = {value for value in recording.inputs if len(recording.shapes[value]) == grid.axes}
    made = [value for call in recording.calls() if call.path == stages[-1].output for value in call.outputs]
    used = {value for number in passes.evaluated.ancestors(made) for value in recording.ops[number].inputs}
    return images - used


def _declared_stages(passes: Passes, grid: Grid, chosen: Any) -> tuple[tuple[Stage, ...], Any]:
    """The stages that the user names to ``zoo.trace``, with what the passes show of their maps."""
    named = chosen if hasattr(chosen, "items") else {path.rpartition(".")[2]: (path,) for path in chosen}
    if len(named) < len(chosen):
        named = {path: (path,) for path in chosen}
    calls = {call.path: call for call in passes.evaluated.recording.calls()}
    stages, layouts = [], []
    for name, paths in named.items():
        for path in paths:
            if path not in calls:
                nearest = did_you_mean(close_matches(path, calls), "print(model) shows the path of every module")
                raise AnatomyError(f"stages: {path!r} is no module that ran", hint=nearest)
        result = next((result for value in calls[paths[-1]].outputs if (result := grid.map_of(value))), None)
        if result is None:
            shapes = [passes.evaluated.recording.shapes[value] for value in calls[paths[-1]].outputs]
            raise AnatomyError(f"stages: {paths[-1]!r} gives no feature map", got=f"tensors of the shapes {shapes}")
        stages.append(Stage(name, tuple(paths), result.channels, result.stride))
        layouts.append(result.layout)
    return tuple(stages), layouts[-1] if layouts else "NCHW"


def _stem_of(passes: Passes) -> tuple[str, ...]:
    """Paths of the first parametric layers that see the traced input.

    Args:
        passes: The recorded model.
    """
    flow = passes.evaluated
    seen, result = {*flow.recording.inputs}, dict[str, None]()
    learned = {name for name, _ in passes.model.named_parameters(remove_duplicate=False)}
    for op in flow.recording.ops:
        is_first = op.name in _JOINING or seen.issuperset(flow.moving(op))  # else features that the input masks
        if not is_first or seen.isdisjoint(op.inputs):
            continue
        parameters = [name for name in flow.parameters_of(op) if name in learned]
        if parameters:
            result[owner(op, parameters)] = None
        else:
            seen.update(op.outputs)
    return tuple(path for path in result if path)


def _channel_counts(passes: Passes, stem: Sequence[str]) -> tuple[str, ...]:
    """Paths of the integers that repeat the number of input channels, in the modules around the first convolutions.

    A configuration says it by name. One that a module keeps, and mere ``channels``, may mean anything else, such as
    those of an output: they count only where forward refuses more channels while they say the old number.
    """
    layers = {path: passes.model.get_submodule(path) for path in stem}
    numbers = {path: layer.in_channels for path, layer in layers.items() if isinstance(layer, _CONVOLUTIONS)}
    paths = (repeated_numbers(passes.model, path, number, _CHANNEL_COUNTS) for path, number in numbers.items())
    result = [*dict.fromkeys(each for found in paths for each in found)]
    for each in [*result]:
        if not is_of_module(passes.model, each) and not each.endswith(".channels"):
            continue
        others = [other for other in result if other != each]
        if _takes_more_channels(passes, numbers, others):
            result = others
    return tuple(result)


def _takes_more_channels(passes: Passes, numbers: Mapping[str, int], attributes: Iterable[str]) -> bool:
    """Whether forward takes one channel more, where the first convolutions and some numbers of the model say so.

    Args:
        passes: Of the model.
        numbers: How many channels each of the first convolutions takes, by its path.
        attributes: Paths of the integers that say it, too.
    """
    model, counts = duplicate(passes.model), {*numbers.values()}

    def wider(x: Any) -> Any:
        is_image = isinstance(x, Tensor) and x.dim() > 2 and x.shape[1] in counts  # noqa: PLR2004 - [N, C, L]
        return torch.cat([x, x[:, :1]], 1) if is_image else x

    try:
        with torch.no_grad(), evaluating(model), ShapesOnly():
            for path, number in numbers.items():
                layer: Any = model.get_submodule(path)
                layer.weight, layer.in_channels = nn.Parameter(wider(layer.weight)), number + 1
            for path in attributes:
                set_attribute(model, path, get_attribute(model, path) + 1)
            run(model, tree_map(wider, passes.x))
    except Exception:  # noqa: BLE001 - the model's own code
        return False
    return True


def _is_norm(module: nn.Module) -> bool:
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # noqa: SLF001 - the base of all
    return isinstance(module, norms)


def _example_on_device(example: Any, model: nn.Module) -> Any:
    """The example on the device of the model that is traced."""
    like = next(model.parameters(), torch.empty(0, device="cpu"))
    return tree_map(lambda each: each.to(like.device) if isinstance(each, Tensor) else each, example)
