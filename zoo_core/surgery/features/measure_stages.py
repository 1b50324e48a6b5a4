"""Channels and strides of stages, measured: for plugins that cannot declare them, and after a change by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy, Stage
from zoo_core.errors import AnatomyError
from zoo_core.surgery.features.forward import run_forward
from zoo_core.surgery.noise import noise_like
from zoo_core.utils.eval_mode import evaluating, inferring
from zoo_core.utils.hooks import removing

_MAP_AXES, _TOKEN_AXES, _SIGNAL_AXES = 4, 3, 2


def measure_stages(
    model: nn.Module, modules: Mapping[str, Sequence[str]], *, size: tuple[int, int, int] = (3, 64, 64)
) -> tuple[Stage, ...]:
    """The stages of a model, with the channels and the stride that each has on an empty image.

    For the anatomy of a library with many architectures of one layout. The model runs on that image and on one twice
    as wide, so that no border counts, in eval mode and without gradients, and is left as it was. What comes after the
    last stage may refuse such images; where a stage refuses the wide one, the first alone counts.

    Args:
        model: As its constructor made it.
        modules: Name of each stage to the dotted paths of its modules, in the order they run; the last one has to give
            a map, ``[N, C, H, W]``.
        size: Channels, height and width of the first image, in pixels: small, and a multiple of every stride.

    Returns:
        What ``Anatomy.stages`` takes.

    Raises:
        AnatomyError: A path names no module, or a stage gave no map on this image; the message says which.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))
        >>> [(stage.channels, stage.stride) for stage in measure_stages(net, {"first": ["0"], "second": ["1"]})]
        [(8, 2), (16, 4)]
    """
    maps, why = _maps(model, {name: paths[-1] for name, paths in modules.items()}, size)
    without = [name for name in modules if not _is_map(maps.get(name))]
    if without:
        raise AnatomyError(
            f"no map of {', '.join(without)} in a {type(model).__name__}, on an image of {size}",
            got=why or ", ".join(f"a {type(maps[name]).__name__}" for name in without if name in maps) or None,
            hint="name the module whose output is the map, pass another size=, or write the Stage by hand",
        )
    wider, _ = _maps(model, {name: paths[-1] for name, paths in modules.items()}, (*size[:-1], 2 * size[-1]))
    return tuple(
        Stage(name, tuple(paths), channels=maps[name].shape[1], stride=_stride(size[-1], maps[name], wider.get(name)))
        for name, paths in modules.items()
    )


def _stride(side: int, made: Tensor, wider: Tensor | None) -> int:
    """Pixels for one step of a stage's map, measured: what twice as many pixels add to it."""
    steps = made.shape[-1]
    added = wider.shape[-1] - steps if wider is not None else 0
    return round(side / (added or steps))


def _is_map(made: object) -> bool:
    """Whether what a stage gave is a map, whose channels and stride can be measured."""
    return isinstance(made, torch.Tensor) and made.dim() == _MAP_AXES


def _maps(model: nn.Module, paths: Mapping[str, str], size: tuple[int, ...]) -> tuple[dict[str, Tensor], str]:
    """The maps of the stages to measure, by name; and why the run stopped, where it did not come to its end."""
    maps: dict[str, Any] = {}
    known = dict(model.named_modules())
    for name, path in paths.items():
        if path not in known:
            raise AnatomyError(f"stage {name}: a {type(model).__name__} has no module {path!r}")
    hooks = (
        known[path].register_forward_hook(lambda _, __, made, name=name: maps.__setitem__(name, made))
        for name, path in paths.items()
    )
    try:
        with removing(hooks), torch.no_grad(), evaluating(model):
            model(next(model.parameters()).new_zeros(1, *size))
    except (RuntimeError, ValueError, AssertionError) as error:  # how models say that an image is too small for them
        return maps, f"{type(error).__name__}: {error}".partition("\n")[0]
    return maps, ""


def with_live_maps(model: nn.Module, anatomy: Anatomy, size: tuple[int, ...], example: Any = None) -> Anatomy:
    """The anatomy with the channels and strides that stages have now, after a change by hand, measured in one run.

    Structured pruning changes channels, and a first convolution for small images strides.

    Args:
        model: As it is now.
        anatomy: Where its parts are. Libraries write the channels of a stage down where they build it.
        size: Channels, rows and columns of what its forward takes.
        example: What it takes, where that is known.
    """
    result: dict[str, Stage] = {}

    def recording(stage: Stage) -> Callable[[nn.Module, Any, Any], None]:
        def record(_: nn.Module, __: object, output: object) -> None:
            result[stage.name] = _with_live_map(stage, stage.map_in(model, output), anatomy.layout, size)

        return record

    handles = [model.get_submodule(each.output).register_forward_hook(recording(each)) for each in anatomy.stages]
    try:
        with removing(handles), inferring(model):
            run_forward(model, noise_like(model, size, example))
    except Exception:  # noqa: BLE001 - it takes something else than an image: its own numbers have to do
        return anatomy
    stages = tuple(result.get(each.name, each) for each in anatomy.stages)
    return anatomy if stages == anatomy.stages else replace(anatomy, stages=stages)


def _with_live_map(stage: Stage, found: Tensor, layout: str, size: tuple[int, ...]) -> Stage:
    """The stage with the channels of its map as measured now, and the stride where it is of an image."""
    channels = channels_of_map(found, layout, len(size))
    stride = stage.stride
    is_of_signal = found.dim() == _TOKEN_AXES and len(size) == _SIGNAL_AXES and layout == "NCHW"
    if is_of_signal or (found.dim() > _TOKEN_AXES and len(size) > 1):
        columns = found.shape[-2 if layout == "NHWC" else -1]
        if columns not in {size[-1] // stride, -(-size[-1] // stride)}:  # small maps fit several strides
            stride = round(size[-1] / columns) if is_of_signal else 2 ** round(math.log2(size[-1] / columns))
    return replace(stage, channels=channels, stride=stride)


def channels_of_map(found: Tensor, layout: str, axes: int) -> int:
    """Channels of what a stage gives, as measured; beside maps, three axes are those of tokens.

    Args:
        found: What it gives.
        layout: Of the anatomy.
        axes: How many of one input: two of a signal, whose maps have three.
    """
    are_tokens = found.dim() == _TOKEN_AXES and axes >= _TOKEN_AXES
    return int(found.shape[1 if layout == "NCHW" and not are_tokens else -1])
