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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from zoo_core.surgery.features.extract import Hook


_SIGNAL = 3
"""Axes of a batch of signals, ``[N, C, L]``."""


@dataclass(frozen=True)
class Place:
    """A module that gives a feature map.

    Attributes:
        name: What the user calls it: a stage, or the path of the module.
        path: Its path.
        channels: Channels of the map.
        stride: Pixels of the picture for one step of the map.
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
    found = {
        stage.name: Place(stage.name, stage.output, stage.channels, min(stage.stride, most), depth, depth, stage.read)
        for depth, stage in enumerate(stages, 1)
    }
    names = tuple({stage.stride: stage.name for stage in stages}.values()) if at is None else asked_names(at)
    if not names:
        raise UsageError("an encoder without any map was asked for", expected="at least one name in at")
    others = [module_path(model, name) for name in names if name not in found]
    if not others:
        return [found[name] for name in names]
    outputs = _finished(model, body, {*others, *(stage.output for stage in stages)})
    order = list(outputs)
    return [
        replace(place, name=name, order=order.index(place.path))
        for name in names
        for place in [found.get(name) or _measured(model, name, outputs)]
    ]


def _finished(model: nn.Module, body: nn.Module, paths: set[str]) -> dict[str, Any]:
    """What modules give for one picture, in the order in which they finish; and under ``""`` that picture."""
    found: dict[str, Any] = {}

    def keeping(path: str) -> Hook:
        def keep(_module: nn.Module, _given: object, out: Any) -> None:  # noqa: ANN401 - what hooks are given
            found.pop(path, None)
            found[path] = out

        return keep

    twin, x = hooked(body, {path: keeping(path) for path in paths}), example_input(model)
    with torch.no_grad(), evaluating(twin):
        _ = (anatomy_of(model).features or without_hooks)(twin, x)
    return {"": x, **found}


def _measured(model: nn.Module, path: str, outputs: dict[str, Any]) -> Place:
    anatomy, found = anatomy_of(model), outputs.get(path)
    tokens = anatomy.layout == "NLC"
    if not isinstance(found, torch.Tensor) or found.dim() != (3 if tokens else 4):
        got = f"{list(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise NotSupported(
            f"the module {path!r} gives no feature map",
            got="nothing: it did not run before the features" if found is None else got,
            hint="zoo.features(model, x, at=[...]) takes what any module gives",
        )
    channels = found.shape[1 if anatomy.layout == "NCHW" else -1]
    stride = anatomy.stages[0].stride if tokens else _stride(outputs[""], found, anatomy.layout)
    return Place(path, path, int(channels), stride, _depth(model, path, list(outputs)), 0)


def _stride(x: Tensor, found: Tensor, layout: str) -> int:
    """The power of two that is nearest: convolutions without padding cut the border off."""
    width = found.shape[-1 if layout == "NCHW" else -2]
    return int(2 ** round(math.log2(x.shape[-1] / width)))


def _depth(model: nn.Module, path: str, order: list[str]) -> int:
    stages = anatomy_of(model).stages
    before = sum(stage.output in order[: order.index(path)] for stage in stages)
    inside = any(under(path, module) for stage in stages for module in stage.modules)
    own = [depth for name, depth in depths(model).items() if under(name, path)]
    return max([before + (inside or before == len(stages)), *own])
