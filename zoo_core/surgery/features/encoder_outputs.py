"""The modules that an encoder takes its maps from: stages, which the anatomy knows, and others, which are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.example import example_input
from zoo_core.surgery.features.extract import asked_names, hooked, module_path
from zoo_core.surgery.features.forward import without_hooks
from zoo_core.surgery.head.sites import evaluating
from zoo_core.surgery.metadata import anatomy_of, knowledge_of
from zoo_core.surgery.select import depths
from zoo_core.surgery.structure import under
from zoo_core.utils.arguments import check_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from zoo_core.surgery.features.extract import Hook


_MAP = 4
_SIGNAL = 3
"""Axes of a batch of signals, ``[N, C, L]``, or of tokens."""


@dataclass(frozen=True)
class Place:
    """A module that gives a feature map.

    Attributes:
        name: What the user calls it: a stage, or the path of the module.
        path: Its path.
        channels: Channels of the map.
        stride: Pixels of the image for one step of the map.
        depth: The deepest stage that has to be there for it to run, counted as in ``depths``.
        order: Grows in the order in which the modules finish.
        read: ``(model, output)`` to the map, where the module gives something else.
    """

    name: str
    path: str
    channels: int
    stride: int
    depth: int
    order: int
    read: Callable[[Any, Any], Any] | None = None


STEM = "stem"
"""What users call the last map before the first stage, where no stage and no module has that name."""


def pyramid(model: nn.Module, body: nn.Module, depth: int, most: int) -> list[Place]:
    """The image itself, and a map for each of the strides 2, 4, 8 and so on; one without path where there is none.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        body: The same, or its dilated twin.
        depth: How many strides.
        most: The largest stride that ``body`` has.

    Raises:
        UsageError: ``depth`` is not from 1 to the number of strides.
        NotSupported: The model has no maps of these strides.
    """
    check_count("depth", depth)
    stages = {stage.stride: stage.name for stage in anatomy_of(model).stages}
    deepest = int(math.log2(max(stages)))
    if depth > deepest:
        raise UsageError(
            f"depth cannot be {depth}", expected=f"at most {deepest}: the last map has the stride {max(stages)}"
        )
    strides = [2**level for level in range(1, depth + 1)]
    names = [stages[stride] for stride in strides if stride in stages]
    chosen = {place.name: place for place in places(model, body, names, most)} if names else {}
    result = {stride: chosen[stages[stride]] for stride in strides if stride in stages}
    if 2 not in result:  # noqa: PLR2004 - the first stride
        result = {**_before_stages(model, body), **result}
    if not result.keys() & set(strides):
        raise NotSupported(
            f"this model has no maps of the strides {', '.join(map(str, strides))}",
            got=f"maps of {', '.join(map(str, stages))}",
            hint="zoo.encoder(model) without depth= gives the maps that it has",
        )
    whole = Place("input", "", example_input(model).shape[1], 1, 0, 0)
    return [whole, *(result.get(stride) or Place(f"stride {stride}", "", 0, stride, 0, 0) for stride in strides)]


def places(model: nn.Module, body: nn.Module, at: Sequence[str] | None, most: int) -> list[Place]:
    """Where an encoder takes its maps from.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        body: The same, or its dilated twin.
        at: Names of stages and paths of modules; None for the last stage of each stride that ``model`` has.
        most: The largest stride that ``body`` has.

    Raises:
        UsageError: ``at`` is neither a name nor several.
        UnknownPart: There is no such stage or module; the message lists the stages.
        NotSupported: A module did not run, or gives no map.
    """
    stages, example = anatomy_of(model).stages, knowledge_of(model).example
    if example is not None and not (isinstance(example, torch.Tensor) and example.dim() > _SIGNAL):
        raise NotSupported(
            "an encoder of this model cannot be made",
            cause="its forward takes no image, so its stages give no maps of rows and columns",
            hint="zoo.features(model, x) gives what each of its stages gives",
        )
    result = {
        stage.name: Place(stage.name, stage.output, stage.channels, min(stage.stride, most), depth, depth, stage.read)
        for depth, stage in enumerate(stages, 1)
    }
    names = tuple({stage.stride: stage.name for stage in stages}.values()) if at is None else asked_names(at)
    if not names:
        raise UsageError("an encoder without any map was asked for", expected="at least one name in at")
    if STEM in names and STEM not in {*result, *(path for path, _ in body.named_modules())}:
        result[STEM] = _stem(model, body)
    others = [module_path(model, name) for name in names if name not in result]
    if not others:
        return [result[name] for name in names]
    known = {result[name].path for name in names if name in result}
    outputs = _finished(model, body, {*others, *known, *(stage.output for stage in stages)})
    order = list(outputs)
    return [
        replace(place, name=name, order=order.index(place.path))
        for name in names
        for place in [result.get(name) or _measured(model, name, outputs)]
    ]


def _stem(model: nn.Module, body: nn.Module) -> Place:
    """The last map before the first stage, and larger than that of the stage where there is one.

    Raises:
        NotSupported: There is none.
    """
    first = anatomy_of(model).stages[0].stride
    result = _before_stages(model, body)
    strides = sorted((stride for stride in result if stride < first), reverse=True) or [*result]
    if not strides:
        raise NotSupported(
            "this model has no map before its first stage",
            hint=f"its stages are {', '.join(stage.name for stage in anatomy_of(model).stages)}",
        )
    return replace(result[strides[0]], name=STEM)


def _before_stages(model: nn.Module, body: nn.Module) -> dict[int, Place]:
    """The last module before the first stage that gives a map of each stride, from 2 to that of the stage."""
    stages, layout = anatomy_of(model).stages, anatomy_of(model).layout
    inside = [module for stage in stages for module in stage.modules]
    paths = {
        path
        for path, _ in body.named_modules()
        if path and not any(under(path, module) or under(module, path) for module in inside)
    }
    outputs = _finished(model, body, {*paths, stages[0].output})
    order = list(outputs)
    result = {}
    for path in order[1 : order.index(stages[0].output)]:
        output = outputs[path]
        if _is_map(output, layout):
            stride = _stride(outputs[""], output, layout)
            channels = int(output.shape[-1 if layout == "NHWC" else 1])
            result[stride] = Place(path, path, channels, stride, 0, 0)
    return {stride: place for stride, place in result.items() if 1 < stride <= stages[0].stride}


def _finished(model: nn.Module, body: nn.Module, paths: set[str]) -> dict[str, Any]:
    """What modules give for one image, in the order in which they finish; and under ``""`` that image."""
    result: dict[str, Any] = {}

    def keeping(path: str) -> Hook:
        def keep(_module: nn.Module, _given: object, out: Any) -> None:  # noqa: ANN401 - what hooks are given
            result.pop(path, None)
            result[path] = out

        return keep

    twin, x = hooked(body, {path: keeping(path) for path in paths}), example_input(model)
    with torch.no_grad(), evaluating(twin):
        _ = (anatomy_of(model).features or without_hooks)(twin, x)
    return {"": x, **result}


def _measured(model: nn.Module, path: str, outputs: dict[str, Any]) -> Place:
    anatomy, result = anatomy_of(model), outputs.get(path)
    tokens = anatomy.layout == "NLC" and isinstance(result, torch.Tensor) and result.dim() == _SIGNAL
    if not isinstance(result, torch.Tensor) or not (tokens or _is_map(result, anatomy.layout)):
        got = f"{list(result.shape)}" if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
        raise NotSupported(
            f"the module {path!r} gives no feature map",
            got="nothing: it did not run before the features" if result is None else got,
            hint="zoo.features(model, x, at=[...]) takes what any module gives",
        )
    channels = result.shape[-1 if tokens or anatomy.layout == "NHWC" else 1]
    stride = anatomy.stages[0].stride if tokens else _stride(outputs[""], result, anatomy.layout)
    return Place(path, path, int(channels), stride, _depth(model, path, list(outputs)), 0)


def _is_map(output: object, layout: str) -> bool:
    """Whether an output has an axis of channels, rows and columns; beside tokens its channels have to be the first."""
    if not isinstance(output, torch.Tensor) or output.dim() != _MAP:
        return False
    _, first, second, third = output.shape
    return layout != "NLC" or (second == third and first != second)


def _stride(x: Tensor, found: Tensor, layout: str) -> int:
    """The power of two that is nearest: convolutions without padding cut the border off."""
    width = found.shape[-2 if layout == "NHWC" else -1]
    return int(2 ** round(math.log2(x.shape[-1] / width)))


def _depth(model: nn.Module, path: str, order: list[str]) -> int:
    stages = anatomy_of(model).stages
    before = sum(stage.output in order[: order.index(path)] for stage in stages)
    inside = any(under(path, module) for stage in stages for module in stage.modules)
    own = [depth for name, depth in depths(model).items() if under(name, path)]
    return max([before + (inside or before == len(stages)), *own])
