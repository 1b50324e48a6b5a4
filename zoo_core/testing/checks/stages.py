"""The checks of the stages: their order, channels and strides, as a forward pass shows them, and where each ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad

from zoo_core.contract.anatomy import Anatomy, Stage
from zoo_core.contract.card import Card
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.select import WORDS, depths
from zoo_core.surgery.stem.adapt import stem_layers
from zoo_core.surgery.structure import under
from zoo_core.testing.checks.stem import layers_in_order
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.under_test import (
    DETECTORS,
    arguments,
    example,
    inputs_of,
    leaves_of,
    model_under_test,
    need_stages,
    tensors,
)
from zoo_core.utils.duplicate import without_values
from zoo_core.utils.hooks import removing
from zoo_core.utils.meta_shapes import MetaShapes

_ALIKE = "which gives a map of as many channels and the same stride"
_PLACES = (slice(-2, None), slice(1, -1))
"""Where rows and columns are in the shape of a map, with the channels first or last."""
_TOKEN_AXES = 3
_SIGNAL = 2
"""Numbers of an input_size that has channels and one axis."""
_VIDEO_AXES = 5
_STEPS = 4
_MOST_GROWTH = 512


class Look(NamedTuple):
    """What one forward pass shows of the stages, for their check.

    Attributes:
        size: Height and width of the image, in pixels.
        frames: How many images a video has; 1 for an image.
        shapes: Of the maps of the stages by name, in the order in which they were made.
    """

    size: tuple[int, int]
    frames: int
    shapes: dict[str, torch.Size]


def check_stages(card: Card) -> None:
    """There are stages, and they run in their order and apart; channels and strides are true, measured as it runs."""
    model, anatomy = model_under_test(card), anatomy_of(model_under_test(card))
    require(
        bool(anatomy.stages),
        f"{card.id}: the anatomy names no stages: freezing by depth, layer decay and zoo.encoder have nothing to "
        "go by; name them, or let Family.exceptions say why there are none",
    )
    _check_names(card, anatomy)
    _check_apart(card, anatomy.stages)
    if len(card.input_size) == _SIGNAL:
        raise NotChecked(f"{card.id} takes signals of one axis, whose stages are not measured")
    x = example(card, batch=1)
    growth = min(_STEPS * max(stage.stride for stage in anatomy.stages), _MOST_GROWTH)
    looks, resized = [_look(card, model, x)], ""
    larger = _look(card, model, pad(x, (0, growth, 0, growth // 2)))  # so that rows are told from columns
    if not larger.shapes:
        larger = _look(card, model, pad(x, (0, growth, 0, growth)))
    if larger.shapes == looks[0].shapes:  # it resizes its images, and is measured on those that it leaves as they are
        looks = [_look(card, model, x.new_zeros(1, *card.input_size))]
        resized = ", the input_size of its card: it resizes its images, and that is the size it should resize to"
    elif larger.shapes:
        looks.append(larger)
    for stage in anatomy.stages:
        require(stage.name in looks[0].shapes, f"{card.id}: stage {stage.name}: {stage.output!r} is never called")
        _check_stage(card, anatomy, stage, looks, resized)
    ran, listed = list(looks[0].shapes), [stage.name for stage in anatomy.stages]
    require(ran == listed, f"{card.id}: the stages run in the order {', '.join(ran)}, and not {', '.join(listed)}")


def _check_names(card: Card, anatomy: Anatomy) -> None:
    """No stage has a name that means something else where parts of a model are named, as for zoo.freeze."""
    heads = [head.path for head in anatomy.heads]
    for stage in anatomy.stages:
        label = f"{card.id}: a stage cannot be called {stage.name!r}"
        require(stage.name not in WORDS, f"{label}: that word means another part of any model; {', '.join(WORDS)} do")
        require(not {*stage.name} & {*"*?[]:"}, f"{label}: it would be read as a pattern")
        require(stage.name not in heads, f"{label}: that is the path of a head site")
        other = next((each for each in anatomy.stages if each is not stage and _has_path(each, stage.name)), None)
        require(
            other is None or not _has_path(stage, other.name),
            f"{label}: that is the path of a module of stage {other and other.name}, which has the path of one of this",
        )


def _has_path(stage: Stage, path: str) -> bool:
    """In the check of the names of stages, whether a stage has the module of this path."""
    return any(under(path, each) for each in stage.modules)


def _check_apart(card: Card, stages: Sequence[Stage]) -> None:
    """Check of the stages that no module belongs to two of them."""
    owner: dict[str, str] = {}
    for stage in stages:
        for path in stage.modules:
            for other, name in owner.items():
                both = f"{other!r} and {path!r} are in both"
                within = under(path, other) or under(other, path)
                require(not within, f"{card.id}: stages {name} and {stage.name} overlap: {both}")
            owner[path] = stage.name


def check_depths(card: Card) -> None:
    """Layers run in order of the depths a model is cut by: none between two stages is of neither, or of a later one."""
    model, stages = model_under_test(card), anatomy_of(model_under_test(card)).stages
    need_stages(card, anatomy_of(model))
    last = len(stages) + 1  # heads run in any order, and what is before one of several after another
    by_layer = {name.rpartition(".")[0]: min(depth, last) for name, depth in depths(model).items()}
    order = [path for path in layers_in_order(model, inputs_of(card)) if path in by_layer]
    for place, path in enumerate(order):
        early = next((other for other in order[place + 1 :] if by_layer[other] < by_layer[path]), None)
        if early is not None:
            raise _not_by_depth(card, stages, path, by_layer[path], early, by_layer[early])


def _not_by_depth(
    card: Card, stages: tuple[Stage, ...], path: str, depth: int, early: str, earlier_depth: int
) -> NonConformance:
    """Finding that a layer runs before one of an earlier stage, where depths go by stages."""
    parts = ["the stem", *(f"stage {stage.name}" for stage in stages), "what comes after the stages"]
    return NonConformance(
        f"{card.id}: {path!r} runs before {early!r}, and its depth is later: it counts to {parts[depth]}, and "
        f"{early!r} to {parts[earlier_depth]}",
        cause="a layer that no stage names counts to what is registered before it, and to the end of the model where "
        "nothing of a stage is registered after it",
        hint=f"name it in the modules of the stage it runs in: Stage(..., modules=({path!r}, ...))",
    )


def _look(card: Card, model: nn.Module, x: torch.Tensor) -> Look:
    """In the check of stages, look at what they give in one forward pass; without shapes if the image is too small."""
    shapes: dict[str, torch.Size] = {}
    sizes = [x.shape]
    stages = anatomy_of(model).stages

    def note(stage: Stage, made: Any) -> None:
        shapes[stage.name] = check_map(card, stage, stage.map_in(model, made)).shape

    hooks = [
        model.get_submodule(stage.output).register_forward_hook(lambda _, __, made, stage=stage: note(stage, made))
        for stage in stages
    ]
    if card.task in DETECTORS:  # they resize what they are given
        first = next(iter(stem_layers(model).values()))
        hooks.append(first.register_forward_pre_hook(lambda _, taken: sizes.append(next(tensors(taken)).shape)))
    try:
        with removing(hooks), torch.no_grad():
            model(*arguments(card, x))
    except NonConformance:
        raise
    except (RuntimeError, ValueError, AssertionError):  # how models say that they take one size only
        if len(shapes) < len(stages):  # where the head alone is that strict, the maps are good
            shapes = {}
    return Look((sizes[-1][-2], sizes[-1][-1]), x.shape[2] if x.dim() == _VIDEO_AXES else 1, shapes)


def check_map(card: Card, stage: Stage, output: Any) -> torch.Tensor:
    """Check of the stages that what one gives in a forward pass is a map; gives that."""
    require(
        isinstance(output, torch.Tensor),
        f"{card.id}: stage {stage.name}: {stage.output!r} gives a {type(output).__name__}, not a map; "
        "Stage(..., read=function) takes the map out of it",
    )
    result: torch.Tensor = output
    return result


def _check_stage(card: Card, anatomy: Anatomy, stage: Stage, looks: list[Look], resized: str) -> None:
    """The channels and the stride of a stage are those of the map that it gives."""
    label = f"{card.id}: stage {stage.name}"
    shapes = [look.shapes[stage.name] for look in looks]
    tokens = len(shapes[0]) == _TOKEN_AXES or anatomy.layout == "NLC"
    channels = shapes[0][-1] if tokens or anatomy.layout == "NHWC" else shapes[0][1]
    require(channels == stage.channels, f"{label} has {channels} channels, not {stage.channels}")
    if tokens:
        _check_tokens(label, stage.stride, looks, [prod(shape[1:-1]) for shape in shapes])
        return
    sides = [shape[-3:-1] if anatomy.layout == "NHWC" else shape[-2:] for shape in shapes]
    turned = len(looks) > 1 and looks[1].size[0] != looks[1].size[1] and _are_turned(looks, sides, stage.stride)
    require(not turned, f"{label} gives a map whose rows are the columns of the image: its read exchanges the two")
    for axis in (0, 1):
        pixels, steps = looks[0].size[axis], sides[0][axis]
        if len(looks) > 1:  # what a larger image adds is free of what padding does at the border
            pixels, steps = looks[1].size[axis] - pixels, sides[1][axis] - steps
        right = steps in {pixels // stage.stride, -(-pixels // stage.stride)}
        require(right, f"{label} makes {steps} steps of {pixels} pixels{resized}, so its stride is not {stage.stride}")


def _are_turned(looks: list[Look], sides: list[torch.Size], stride: int) -> bool:
    """Whether a stage has as many rows as the image has columns at this stride, and the other way round."""
    more = [after - before for before, after in zip(looks[0].size, looks[1].size, strict=True)]
    steps = [after - before for before, after in zip(sides[0], sides[1], strict=True)]
    right = [each // stride for each in more]
    return steps == right[::-1] != right


def _check_tokens(label: str, stride: int, looks: list[Look], counts: list[int]) -> None:
    """A stage of tokens, some of which are no places, holds the largest grid that fits; a larger image adds its own."""
    height, width = looks[0].size
    pace = [frames for frames in range(1, looks[0].frames + 1) if looks[0].frames % frames == 0]
    grids = [*_grids((height, width), stride)]
    if len(looks) == 1:
        result = any(
            rows * columns <= counts[0] / n < (rows + 1) * (columns + 1) for rows, columns in grids for n in pace
        )
        seen = f"has {counts[0]} tokens for {height} by {width} pixels"
    else:
        larger, added = [*_grids(looks[1].size, stride)], counts[1] - counts[0]
        more = {rows * columns - r * c for (r, c), (rows, columns) in zip(grids, larger, strict=True)}
        result = any(added == n * each for each in more for n in pace)
        seen = (
            f"has {added} more tokens for {looks[1].size[0]} by {looks[1].size[1]} pixels than for {height} by {width}"
        )
    require(result, f"{label} {seen}, so its stride is not {stride}")


def _grids(size: tuple[int, int], stride: int) -> Iterator[tuple[int, int]]:
    """Rows and columns of a stage of this stride, where a model cuts its images off, and where it pads them."""
    yield size[0] // stride, size[1] // stride
    yield -(-size[0] // stride), -(-size[1] // stride)


class ModuleRun(NamedTuple):
    """What a module gave when it ran last, to check whether the border of a stage is there.

    Attributes:
        shape: Of the first tensor.
        nodes: Of autograd, that computed its tensors.
        first: When it ended for the first time, counted in modules.
        last: When it ended for the last time.
    """

    shape: torch.Size
    nodes: frozenset[Any]
    first: int
    last: int


@contextmanager
def noted_runs(model: nn.Module) -> Iterator[dict[str, ModuleRun]]:
    """In the check of stages, note inside the block what each module gives, by path, in the order in which they end.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with noted_runs(model) as runs:
        ...     _ = model(torch.zeros(1, 2))
        >>> {path: [*run.shape] for path, run in runs.items()}
        {'0': [1, 3], '1': [1, 3]}
    """
    runs: dict[str, ModuleRun] = {}
    clock = count()

    def note(path: str, made: object) -> None:
        now, before = next(clock), runs.pop(path, None)
        given = [*tensors(made)]
        if given:
            nodes = frozenset(each.grad_fn for each in given if each.grad_fn is not None)
            runs[path] = ModuleRun(given[0].shape, nodes, before.first if before else now, now)

    hooks = [
        module.register_forward_hook(lambda _, __, made, path=path: note(path, made))
        for path, module in model.named_modules()
        if path
    ]
    with removing(hooks):
        yield runs


def check_borders(card: Card) -> None:
    """Each stage ends where its resolution does, at the end of a block, and no block between two is in none.

    The model runs without values, as far as it comes so: a model whose stages need them is not looked at.

    Raises:
        NonConformance: A stage ends before that, after it, or inside a block.
        NotChecked: Not all stages run without values.
    """
    model = without_values(model_under_test(card))
    anatomy, x = anatomy_of(model), example(card, batch=1).to("meta")
    with noted_runs(model) as runs, torch.enable_grad(), MetaShapes(), suppress(Exception):
        model(*arguments(card, x))
    if not anatomy.stages or not all(stage.output in runs for stage in anatomy.stages):
        raise NotChecked(f"{card.id} has no stages that run without values")
    for stage in anatomy.stages:
        end = runs[stage.output].last
        late = [path for path in stage.modules if path in runs and runs[path].first > end]
        require(
            not late,
            f"{card.id}: stage {stage.name}: {late[:1]} runs after {stage.output!r}, which is named last: name the "
            "modules in the order in which they run",
        )
    run = ModelRun(card, model, anatomy, runs)
    for stage, later in pairwise(anatomy.stages):
        _check_end_of_block(run, stage, later)
        if stage.stride < later.stride:
            _check_early_end(run, stage, later)
        elif stage.stride == later.stride:
            _check_late_end(run, stage, later)


class ModelRun(NamedTuple):
    """One run of a model under test, with what each of its modules gave, to see where its stages end."""

    card: Card
    model: nn.Module
    anatomy: Anatomy
    modules: dict[str, ModuleRun]

    def parameters_between(self, stage: Stage, later: Stage) -> list[str]:
        """Names of the parameters that the map of the later stage was computed with, not by the map of the other."""
        before = self.modules[stage.output].nodes
        used = leaves_of(self.modules[later.output].nodes - before, before)
        return [name for name, tensor in self.model.named_parameters() if id(tensor) in used]

    def outside(self, names: Iterable[str]) -> list[str]:
        """The largest modules around these tensors that are in no stage, stem or head site, and hold none of these."""
        listed = [*self.anatomy.stem, *(head.path for head in self.anatomy.heads)]
        listed += [path for stage in self.anatomy.stages for path in stage.modules]
        result: dict[str, None] = {}
        for name in names:
            parts = name.split(".")[:-1]
            paths = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
            if not any(path in listed for path in paths):
                whole = [path for path in paths if not any(under(each, path) for each in listed)]
                result.update(dict.fromkeys(whole[:1]))
        return [*result]

    def is_alike(self, path: str, stage: Stage) -> bool:
        """Whether a module has layers, and gives a map of the shape that the stage gives."""
        return (
            path in self.modules
            and self.modules[path].shape == self.modules[stage.output].shape
            and self.has_layers(path)
        )

    def has_layers(self, path: str) -> bool:
        """Whether a module has convolutions or linear layers."""
        kinds = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001 - the base of all
        return any(isinstance(each, kinds) for each in self.model.get_submodule(path).modules())


def _check_end_of_block(run: ModelRun, stage: Stage, later: Stage) -> None:
    """Check that no stage ends inside a block, whose map is another one: what the block adds goes around the border."""
    parts = stage.output.split(".")
    blocks = [".".join(parts[:count]) for count in range(1, len(parts))]
    blocks = [path for path in blocks if run.is_alike(path, stage) and not under(later.output, path)]
    blocks = [path for path in blocks if not run.modules[path].nodes & run.modules[stage.output].nodes]
    if not blocks:
        return
    names = run.parameters_between(stage, later)
    around = [name for name in names if any(under(name, path) for path in stage.modules)]
    require(
        not around,
        f"{run.card.id}: stage {stage.name} ends inside {blocks[-1]!r}: stage {later.name} is computed from "
        f"{', '.join(around[:3])} beside the map of {stage.output!r}",
    )


def _check_early_end(run: ModelRun, stage: Stage, later: Stage) -> None:
    """No module of no stage, after the border of one, gives one more map of the same shape before the next stage.

    Where a stage ends with a pool, that is its border, and layers after it are of the next one. A module in the next
    stage, or after the last one, may give such a map: their libraries cut GhostNets and EfficientNets so.
    """
    if not run.has_layers(stage.output):
        return
    left = [path for path in run.outside(run.parameters_between(stage, later)) if run.is_alike(path, stage)]
    require(
        not left,
        f"{run.card.id}: stage {stage.name} ends before {left[:1]}, {_ALIKE}, and is in no stage: name it last in "
        "that stage",
    )


def _check_late_end(run: ModelRun, stage: Stage, later: Stage) -> None:
    """No stage goes on after the border where the resolution changes, with the first modules of the next stage."""
    last = run.modules[stage.output].shape
    shapes = {
        path: run.modules[path].shape for path in stage.modules[:-1] if path in run.modules and run.has_layers(path)
    }
    larger = [
        path
        for path, shape in shapes.items()
        if len(shape) == len(last) and all(shape[part].numel() > last[part].numel() for part in _PLACES)
    ]
    require(
        not larger,
        f"{run.card.id}: stage {stage.name} goes on after its resolution changes: {larger[:1]} gives larger maps than "
        f"{stage.output!r}, whose stride of {stage.stride} is that of stage {later.name}",
    )
