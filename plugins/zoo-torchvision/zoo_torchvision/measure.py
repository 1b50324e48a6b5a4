"""Widths and strides, read from built modules, so that they stay true when a model is built with other options."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from math import prod
from typing import Literal

from torch import nn
from torchvision.models.densenet import _DenseBlock
from torchvision.models.googlenet import Inception
from torchvision.models.inception import InceptionA, InceptionB, InceptionC, InceptionD, InceptionE
from torchvision.models.shufflenetv2 import InvertedResidual
from torchvision.models.squeezenet import Fire
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2
from torchvision.models.video.s3d import SepInceptionBlock3D
from torchvision.models.video.swin_transformer import PatchEmbed3d

from zoo_core.plugin import AnatomyError, Head, Stage

Role = Literal["main", "aux", "summed", "box", "mask", "level"]

_SAMPLERS = (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)

_SHORTCUTS = {"downsample", "proj", "branch1"}
"""Children that run beside the main branch of a block: they have its stride once more, and its width."""

_HALVING = (
    # Branches side by side, each with a stride of 2; or slices, where there is no stride to read.
    InceptionB,
    InceptionD,
    PatchMerging,
    PatchMergingV2,
)

_CONCATENATED: dict[type[nn.Module], tuple[str, ...]] = {
    Fire: ("expand1x1", "expand3x3"),
    Inception: ("branch1", "branch2", "branch3", "branch4"),
    InceptionA: ("branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool"),
    InceptionC: ("branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool"),
    InceptionE: ("branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
    SepInceptionBlock3D: ("branch0", "branch1", "branch2", "branch3"),
    # Both halves of a unit have the width of its second branch.
    InvertedResidual: ("branch2", "branch2"),
}


def stride(module: nn.Module) -> int:
    """Measure the stride of a module of torchvision: pixels of its input for one step of its output, along one side.

    Args:
        module: A convolution, a pooling layer, or anything made of them that runs its children one after another.

    Example:
        >>> stride(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.MaxPool2d(2)))
        4
    """
    if isinstance(module, _HALVING):
        return 2
    if isinstance(module, PatchEmbed3d):
        return stride(module.get_submodule("proj"))
    if isinstance(module, _SAMPLERS):
        return module.stride if isinstance(module.stride, int) else module.stride[-1]
    return prod(stride(child) for name, child in module.named_children() if name not in _SHORTCUTS)


def channels(module: nn.Module) -> int:
    """Measure the channels of the output of a module of torchvision.

    Args:
        module: A layer, a block or a sequence of blocks.

    Raises:
        AnatomyError: There is no layer in it that has a width.

    Example:
        >>> channels(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        8
    """
    if isinstance(module, _DenseBlock):
        first = module.get_submodule("denselayer1")
        return _width(first.norm1, "num_features") + len(module) * _width(first.conv2, "out_channels")
    for kind, branches in _CONCATENATED.items():
        if isinstance(module, kind):
            return sum(channels(module.get_submodule(branch)) for branch in branches)
    if width := _width(module, "out_features", "out_channels", "num_features", "normalized_shape"):
        return width
    children = [child for name, child in module.named_children() if name not in _SHORTCUTS]
    for child in reversed(children):
        if any(True for _ in child.parameters()):
            return channels(child)
    raise AnatomyError(f"no layer of {type(module).__name__} has a width", got=repr(module))


def first_convolution(model: nn.Module) -> tuple[str, ...]:
    """Measure which convolution of a torchvision model is first: its path, the stem of every model that has one.

    Example:
        >>> first_convolution(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 8, 3)))
        ('0.0',)
    """
    convolutions = (path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    return tuple(itertools.islice(convolutions, 1))


def head_at(
    model: nn.Module, path: str, role: Role = "main", *, per_class: int = 1, attributes: tuple[str, ...] | None = None
) -> Head:
    """Measure the head at a path in a torchvision model: its head site, with the widths of the module there now.

    Args:
        model: The model.
        path: Where the head is; a layer, or what was put there, such as an MLP.
        role: What the head is for, as in :class:`zoo_core.Head`.
        per_class: Outputs of the layer for each class.
        attributes: Paths of integers that repeat the number of classes; by default the model's own ``num_classes``
            for its main head, if it has one.

    Raises:
        AnatomyError: There is neither a linear layer nor a convolution at the site.

    Example:
        >>> head_at(nn.Sequential(nn.ReLU(), nn.Linear(8, 5)), "1").num_classes
        5
    """
    site = model.get_submodule(path)
    layers = [layer for layer in site.modules() if _width(layer, "in_features", "in_channels")]
    if not layers:
        raise AnatomyError(
            f"nothing at the head site {path!r} of {type(model).__name__} says how many features it takes",
            expected="a linear layer or a convolution, or a module that holds one",
            got=repr(site),
        )
    if attributes is None:
        attributes = ("num_classes",) if role == "main" and hasattr(model, "num_classes") else ()
    return Head(
        path,
        in_features=_width(layers[0], "in_features", "in_channels"),
        num_classes=_width(layers[-1], "out_features", "out_channels") // per_class,
        kind="conv" if isinstance(layers[0], nn.Conv2d) else "conv3d" if isinstance(layers[0], nn.Conv3d) else "linear",
        role=role,
        attributes=attributes,
        per_class=per_class,
    )


def in_sequence(model: nn.Module, named: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[Stage, ...]:
    """Measure torchvision's stages in sequence: channels on their last modules, and the strides so far.

    Args:
        model: The model.
        named: For each stage its name and the paths of its modules.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 16, 3, stride=2))
        >>> [(stage.channels, stage.stride) for stage in in_sequence(net, [("a", ("0",)), ("b", ("1",))])]
        [(8, 2), (16, 4)]
    """
    stages = []
    total = 1
    for name, paths in named:
        total *= prod(stride(model.get_submodule(path)) for path in paths)
        stages.append(Stage(name, paths, channels(_last_with_weights(model, paths)), total))
    return tuple(stages)


def by_resolution(model: nn.Module, *trunks: str) -> tuple[Stage, ...]:
    """Measure where the map of torchvision's flat sequences gets smaller: their children in groups, each a stage.

    Args:
        model: The model.
        *trunks: Paths of the sequences in the order they run; the first begins with the stem.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)))
        >>> [stage.modules for stage in by_resolution(net, "0")]
        [('0.0', '0.1'), ('0.2', '0.3')]
    """
    return in_sequence(model, resolutions(model, *trunks))


def resolutions(model: nn.Module, *trunks: str) -> list[tuple[str, tuple[str, ...]]]:
    """Measure the groups of :func:`by_resolution` on a torchvision model: names, ``stage1`` and so on, and paths."""
    groups: list[list[str]] = [[]]
    for path in [f"{trunk}.{name}" for trunk in trunks for name, _ in model.get_submodule(trunk).named_children()]:
        if stride(model.get_submodule(path)) > 1 and _weighs(model, groups[-1]):
            groups.append([])
        groups[-1].append(path)
    if not _weighs(model, groups[-1]):
        # A pooling layer after the last convolution belongs to the stage that it ends.
        last = groups.pop()
        groups[-1] += last
    return [(f"stage{number}", tuple(group)) for number, group in enumerate(groups, start=1)]


def _last_with_weights(model: nn.Module, paths: tuple[str, ...]) -> nn.Module:
    """Last module with weights in a stage of torchvision's, on which the channels of the stage are measured."""
    return model.get_submodule(next(path for path in reversed(paths) if _weighs(model, [path])))


def _weighs(model: nn.Module, paths: Iterable[str]) -> bool:
    """Whether modules of a torchvision model to measure have parameters."""
    return any(True for path in paths for _ in model.get_submodule(path).parameters())


def _width(module: nn.Module, *names: str) -> int:
    """Measure a layer of torchvision: the number it has under the first of these names that it knows; 0 without one."""
    value = next((getattr(module, name) for name in names if hasattr(module, name)), 0)
    return int(value[-1] if isinstance(value, tuple) else value)
