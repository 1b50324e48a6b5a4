"""The check of the stages: they run in their order, and channels and strides are what a forward pass shows."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import pad

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.select import WORDS
from zoo_core.surgery.stem.adapt import stem_layers
from zoo_core.surgery.structure import under
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.under_test import DETECTORS, arguments, example, model_under_test, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from zoo_core.contract.anatomy import Anatomy, Stage
    from zoo_core.contract.card import Card

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
    """Whether a stage has the module of this path, which another one may be called by mistake."""
    return any(under(path, each) for each in stage.modules)


def _check_apart(card: Card, stages: Sequence[Stage]) -> None:
    """Check of the stages that no module belongs to two of them."""
    owner: dict[str, str] = {}
    for stage in stages:
        for path in stage.modules:
            for other, name in owner.items():
                within = path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
                require(
                    not within, f"{card.id}: stages {name} and {stage.name} overlap: {other!r} and {path!r} are in both"
                )
            owner[path] = stage.name


def _look(card: Card, model: nn.Module, x: torch.Tensor) -> Look:
    """Look at what the stages give in one forward pass; without shapes where they take no image of this size."""
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
        with torch.no_grad():
            model(*arguments(card, x))
    except NonConformance:
        raise
    except (RuntimeError, ValueError, AssertionError):  # how models say that they take one size only
        if len(shapes) < len(stages):  # where the head alone is that strict, the maps are good
            shapes = {}
    finally:
        for hook in hooks:
            hook.remove()
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
