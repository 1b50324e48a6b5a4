"""The stem of a timm model: the first layers that see the image."""

from __future__ import annotations

from collections.abc import Iterator

from timm.models.crossvit import CrossVit
from torch import nn

_SIDE_BY_SIDE = (
    # The branches of RepVGG and MobileOne, until they are merged into one convolution.
    ("conv_kxk", "conv_1x1", "conv_scale"),
    # One convolution each for the brightness and the two colours whose frequencies CSATv2 looks at.
    ("conv_y", "conv_cb", "conv_cr"),
)
"""Children of one block that are all given what the block is given."""


def stem(model: nn.Module) -> tuple[str, ...]:
    """Dotted paths of the first layers of a timm model: all those that see the image.

    It is the first convolution or linear layer in the order of the modules, with those that run beside it. What timm
    declares as ``first_conv`` belongs to the architecture's name, and misses what options such as ``stem_type`` change.

    Args:
        model: A model of timm.

    Example:
        >>> import timm
        >>> stem(timm.create_model("resnet18d"))
        ('conv1.0',)
        >>> stem(timm.create_model("repvgg_a0"))
        ('stem.conv_kxk.conv', 'stem.conv_1x1.conv')
    """
    starts = [""]
    if isinstance(model, CrossVit):  # it looks at the image in two sizes
        starts = [f"patch_embed.{name}" for name, _ in model.patch_embed.named_children()]
    return tuple(path for start in starts for path in _first_layers(model, start))


def _first_layers(model: nn.Module, start: str) -> Iterator[str]:
    """The layers of a timm model's stem: the first one under a path, and those beside it."""
    path = _first_layer(model, start)
    if path is None:
        return
    names = path.split(".")
    for depth, name in enumerate(names):
        block = model.get_submodule(".".join(names[:depth]))
        beside = next((row for row in _SIDE_BY_SIDE if name in row), ())
        present = [branch for branch in beside if isinstance(getattr(block, branch, None), nn.Module)]
        if present:
            for branch in present:
                yield from _each(model, ".".join([*names[:depth], branch]))
            return
    yield path


def _each(model: nn.Module, path: str) -> Iterator[str]:
    """The first layer of a branch of the stem, or of each module in a list of them."""
    branch = model.get_submodule(path)
    inside = [f"{path}.{name}" for name, _ in branch.named_children()] if isinstance(branch, nn.ModuleList) else [path]
    for each in inside:
        first = _first_layer(model, each)
        if first is not None:
            yield first


def _first_layer(model: nn.Module, start: str) -> str | None:
    """The first convolution or linear layer under a path, with which the stem of a timm model starts."""
    modules = model.get_submodule(start).named_modules(prefix=start)
    return next((path for path, module in modules if isinstance(module, nn.Conv2d | nn.Linear)), None)
