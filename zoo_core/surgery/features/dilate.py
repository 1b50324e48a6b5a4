"""Keeping a feature map large: strides of the last stages give way to dilation, and the filters still fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.features.twin import Hook, hooked, replaced, twin_of
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import anatomy_of, unwrap
from zoo_core.utils.eval_mode import evaluating

_SIDE = 128
"""Pixels a side of the image that strides are measured with: two steps at the usual last stride of 32, twice over."""

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)

Strides = dict[str, tuple[float, float]]
"""Path of a module to pixels of the image for one step of its input, and of its output."""


def dilated(model: nn.Module, output_stride: int) -> dict[str, nn.Module]:
    """Twins of the convolutions that have to change for no stage to have a larger stride than ``output_stride``.

    A convolution whose stride is dropped keeps its own dilation, and what comes after it is dilated: then every output
    of the original network is among those of the new one, as the "algorithme à trous" promises and
    ``replace_stride_with_dilation`` of torchvision's ResNet does. Where the anatomy says so, the convolution itself is
    dilated too, as in torchvision's dilated MobileNetV3.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; not changed.
        output_stride: Pixels of the image for one step of the last feature map: 8, 16, ...

    Returns:
        Path to twin, which shares its parameters with the model; empty when nothing has to change.

    Raises:
        UsageError: ``output_stride`` is not a power of two.
        NotSupported: The stages do not get smaller by strided convolutions alone.
    """
    if type(output_stride) is not int or output_stride < 1 or output_stride & (output_stride - 1):
        raise UsageError(f"output_stride cannot be {output_stride!r}", expected="a power of two, such as 16 or 8")
    stages = anatomy_of(model).stages
    bare = unwrap(model)
    far = [path for stage in stages if stage.stride > output_stride for path in stage.modules]
    if not far:
        return {}
    if anatomy_of(model).layout != "NCHW":
        raise _refused(
            bare, output_stride, "its blocks exchange tokens, or windows of them, and not neighbouring pixels"
        )
    x = example_input(bare, side=_SIDE)
    layers = {
        f"{path}.{name}".rstrip(".")
        for path in far
        for name, layer in bare.get_submodule(path).named_modules()
        if isinstance(layer, (nn.Conv2d, *_POOLS))
    }
    strides = _strides(bare, layers, x, bare, output_stride)
    twins = {path: _twin(bare, path, strides, output_stride) for path in layers if path in strides}
    changed = {path: twin for path, twin in twins.items() if twin is not None}
    _check(bare, changed, output_stride, x)
    return changed


def _twin(model: nn.Module, path: str, strides: Strides, most: int) -> nn.Module | None:
    """The layer dilated as it has to be, or None where it can stay as it is."""
    layer, (before, after) = model.get_submodule(path), strides[path]
    if isinstance(layer, _POOLS):
        if after > most and after != before:
            raise _refused(
                model, most, f"{path} makes the map smaller by pooling, and pooling has no filters to dilate"
            )
        return None
    if not isinstance(layer, nn.Conv2d) or (before == after and max(layer.kernel_size) == 1):
        return None  # 1x1 convolutions of a squeeze-and-excitation see one number a channel, whatever the stride
    reference = after if anatomy_of(model).dilates_strided else before
    growth = reference / min(reference, most)
    stride = min(after, most) / min(before, most)
    if growth != int(growth) or stride != int(stride):
        cause = f"{path} turns steps of {before:.4g} pixels into steps of {after:.4g}"
        raise _refused(model, most, f"{cause}: convolutions without padding cut the border off")
    return None if (growth, stride) == (1, after / before) else _dilate(layer, int(growth), int(stride))


def _dilate(conv: nn.Conv2d, growth: int, stride: int) -> nn.Conv2d:
    """A twin with larger dilation: its taps lie ``growth`` times as far apart, and start at the same place."""
    twin = twin_of(conv)
    twin.stride = (stride, stride)
    height, width = (d * growth if k > 1 else d for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    twin.dilation = (height, width)
    totals = [d * (k - 1) for d, k in zip(twin.dilation, conv.kernel_size, strict=True)]
    for name, child in conv.named_children():
        if isinstance(child, nn.ZeroPad2d):  # convolutions that pad as TensorFlow does, for one size of image
            left, top = child.padding[0] * growth, child.padding[2] * growth
            twin._modules[name] = nn.ZeroPad2d((left, totals[1] - left, top, totals[0] - top))  # noqa: SLF001 - a twin has a table of its own
            return twin
    if isinstance(conv.padding, str):
        return twin
    top, left = (pad * growth if k > 1 else pad for pad, k in zip(conv.padding, conv.kernel_size, strict=True))
    twin.padding = (top, left)
    around = [left, totals[1] - left, top, totals[0] - top]
    if around != [left, left, top, top] and type(conv).forward is nn.Conv2d.forward:
        # An even kernel needs more on one side than on the other, which nn.Conv2d can do in its padding modes only.
        twin.__dict__["padding_mode"] = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        twin.__dict__["_reversed_padding_repeated_twice"] = around
    return twin


def _strides(body: nn.Module, paths: set[str], x: Tensor, model: nn.Module, most: int) -> Strides:
    """The strides before and after layers that may be dilated, measured on one forward pass over ``x``."""
    result: Strides = {}

    def measuring(path: str) -> Hook:
        def measure(_module: nn.Module, given: Any, out: Any) -> None:
            result[path] = (x.shape[-1] / _side(given), x.shape[-1] / _side(out))

        return measure

    run = anatomy_of(model).features
    twin = hooked(body, {path: measuring(path) for path in paths})
    try:
        with torch.no_grad(), evaluating(twin):
            _ = run(twin, x) if run else twin(x)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # fixed sizes, or maps that do not add up
        raise _refused(model, most, f"it does not run on {_SIDE} pixels a side: {error}") from error
    return result


def _side(value: Any) -> int:
    """Columns of a feature map, from which the strides of a dilated model are computed."""
    while not isinstance(value, torch.Tensor):
        value = value[0]
    return int(value.shape[-1])


def _check(model: nn.Module, changed: dict[str, nn.Module], most: int, x: Tensor) -> None:
    """Raise NotSupported unless dilation gave the stages the strides that were requested."""
    outputs = {stage.output: stage for stage in anatomy_of(model).stages}
    strides = _strides(replaced(model, changed), set(outputs), x, model, most)
    for path, stage in outputs.items():
        if strides[path][1] != min(stage.stride, most):
            cause = f"the map after {stage.name!r} would have a stride of {strides[path][1]:.4g}"
            raise _refused(
                model, most, f"{cause}; not all of what makes it smaller is a strided convolution in a stage"
            )


def _refused(model: nn.Module, most: int, cause: str) -> NotSupported:
    """The error for a model in which dilation cannot take the place of strides."""
    return NotSupported(
        f"this {type(model).__name__} cannot have an output stride of {most}",
        cause=cause,
        hint="ResNet, ResNeXt, RegNet, EfficientNet, MobileNet, MNASNet, ShuffleNet and ConvNeXt can",
    )
