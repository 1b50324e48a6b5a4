"""Heads, widths and stages, read from built modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from zoo_core.plugin import AnatomyError, Head, Stage

Row = tuple[str, tuple[str, ...], int, int]
"""Name of a stage, paths of its modules, channels, stride."""


def head_at(model: nn.Module, path: str, role: Literal["main", "aux"] = "main") -> Head:
    """Measure the head at a path in a model of pretrainedmodels: its head site, with the widths of the module there.

    Args:
        model: The model.
        path: Where the head is; a layer, or what was put there, such as an MLP.
        role: ``"aux"`` for a head that only trains.

    Raises:
        AnatomyError: There is neither a linear layer nor a convolution at the site.

    Example:
        >>> head_at(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 5, 1)), "1").kind
        'conv'
    """
    layers = [layer for layer in model.get_submodule(path).modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise AnatomyError(
            f"nothing at the head site {path!r} of {type(model).__name__} says how many features it takes",
            expected="a linear layer or a convolution, or a module that holds one",
            got=repr(model.get_submodule(path)),
        )
    first, last = layers[0], layers[-1]
    return Head(
        path,
        in_features=first.in_channels if isinstance(first, nn.Conv2d) else first.in_features,
        num_classes=last.out_channels if isinstance(last, nn.Conv2d) else last.out_features,
        kind="conv" if isinstance(first, nn.Conv2d) else "linear",
        role=role,
        attributes=("num_classes",) if role == "main" and hasattr(model, "num_classes") else (),
    )


def stages(rows: Iterable[Row]) -> tuple[Stage, ...]:
    """Stages with what was measured, or is written by hand, in rows of a table of pretrainedmodels.

    Example:
        >>> [(stage.name, stage.channels) for stage in stages([("layer1", ("layer1",), 64, 4)])]
        [('layer1', 64)]
    """
    return tuple(Stage(name, modules, channels, stride) for name, modules, channels, stride in rows)


def residual_width(layer: nn.Module) -> int:
    """Measure the channels of a sequence of pretrainedmodels' residual blocks: those of the last norm in the last.

    Example:
        >>> residual_width(nn.Sequential(nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU())))
        16
    """
    last_block = list(layer.children())[-1]
    norms = [child for child in last_block.children() if isinstance(child, nn.BatchNorm2d)]
    return norms[-1].num_features


def by_resolution(model: nn.Module, trunk: str) -> tuple[Stage, ...]:
    """Measure where the map of a flat sequence of pretrainedmodels gets smaller, and group its children so.

    A pooling layer after the last convolution belongs to the stage that it ends.

    Args:
        model: The model.
        trunk: Path of the sequence; it begins with the stem.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)))
        >>> [(stage.modules, stage.channels, stage.stride) for stage in by_resolution(net, "0")]
        [(('0.0', '0.1'), 8, 1), (('0.2', '0.3'), 16, 2)]
    """
    groups: list[list[str]] = [[]]
    channels, strides = [0], [1]
    for name, child in model.get_submodule(trunk).named_children():
        if _stride(child) > 1 and channels[-1]:
            groups.append([])
            channels.append(0)
            strides.append(strides[-1])
        groups[-1].append(f"{trunk}.{name}")
        channels[-1] = _width(child) or channels[-1]
        strides[-1] *= _stride(child)
    if not channels[-1]:
        last = groups.pop()
        groups[-1] += last
        channels.pop()
        strides[-2:] = strides[-1:]
    numbered = enumerate(zip(groups, channels, strides, strict=True), start=1)
    return stages((f"stage{number}", tuple(group), width, stride) for number, (group, width, stride) in numbered)


def _stride(module: nn.Module) -> int:
    """Measure the stride of a layer of pretrainedmodels; 1 for one without a stride."""
    stride = getattr(module, "stride", 1)
    return int(stride[0] if isinstance(stride, tuple) else stride)


def _width(module: nn.Module) -> int:
    """Measure the channels of a layer of pretrainedmodels: a convolution, or a Fire module; 0 of others."""
    if hasattr(module, "expand1x1"):
        return sum(_width(module.get_submodule(name)) for name in ("expand1x1", "expand3x3"))
    return module.out_channels if isinstance(module, nn.Conv2d) else 0
