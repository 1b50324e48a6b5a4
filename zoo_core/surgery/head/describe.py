"""Modules as data: what it takes to build a user's head again without pickle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.head.mlp import Squeeze

_TORCHS = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    AlphaDropout AvgPool1d AvgPool2d AvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d Bilinear CELU ConstantPad1d
    ConstantPad2d ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d CosineSimilarity
    Dropout Dropout1d Dropout2d Dropout3d ELU Embedding FeatureAlphaDropout Flatten GELU GLU GroupNorm Hardshrink
    Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d InstanceNorm2d InstanceNorm3d LPPool1d LPPool2d LayerNorm
    LeakyReLU Linear LocalResponseNorm LogSigmoid LogSoftmax MaxPool1d MaxPool2d MaxPool3d Mish MultiheadAttention PReLU
    PixelShuffle PixelUnshuffle RMSNorm RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReplicationPad1d
    ReplicationPad2d SELU Sequential SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign SyncBatchNorm
    Tanh Tanhshrink Threshold TransformerEncoderLayer Unflatten Upsample UpsamplingBilinear2d UpsamplingNearest2d
    ZeroPad1d ZeroPad2d ZeroPad3d
"""
LAYERS: dict[str, type[nn.Module]] = {
    **{name: getattr(nn, name) for name in _TORCHS.split() if hasattr(nn, name)},
    "Squeeze": Squeeze,
}
"""Every class that a description can name. Those of torch compute, and do nothing else when they are made."""

_NAMES = {kind: name for name, kind in LAYERS.items()}
_PLAIN = bool | int | float | str | None


@dataclass(frozen=True)
class Layers:
    """A head described as data: a layer of ``torch.nn``, or a ``Sequential`` of them, that can be built again.

    Attributes:
        kind: A name of :data:`LAYERS`.
        arguments: What its constructor is given.
        children: What a ``Sequential`` holds, by name.

    Example:
        >>> describe(nn.Sequential(nn.Linear(8, 4), nn.ReLU())).build()
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
          (1): ReLU()
        )
    """

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    children: Mapping[str, Layers] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The module, with parameters of its own.

        Raises:
            NotSupported: There is no such layer, or it does not take these arguments.
        """
        try:
            made = _layer_class(self.kind)(**self.arguments)
        except (TypeError, ValueError, AttributeError, ImportError) as error:
            raise NotSupported(
                f"cannot build a layer of the kind {self.kind!r}",
                got=f"{type(error).__name__}: {error}",
                cause="it was described by another version of torch or of zoo",
            ) from error
        for name, child in self.children.items():
            made.add_module(name, child.build())
        return made


@dataclass(frozen=True)
class Custom:
    """The description of a module that only its own code can build; a recipe says that it has to be given.

    Attributes:
        kind: Dotted path of its class.
    """

    kind: str


def describe(module: nn.Module) -> Layers | Custom:
    """Describe a head as data to build it again: its layers where all are standard ones, else only its class.

    Example:
        >>> describe(nn.Dropout(0.2))
        Layers(kind='Dropout', arguments={'p': 0.2}, children={})
    """
    kind = type(module)
    custom = Custom(f"{kind.__module__}.{kind.__qualname__}")
    try:
        with torch.device("meta"):  # the proof costs neither memory nor random numbers
            result = _layers(module)
            twin = result.build() if result else None
    except NotSupported:
        return custom
    return result if result and twin and _looks(twin) == _looks(module) else custom


def describe_all(value: Any) -> Any:
    """Describe a head, or all heads and other modules inside mappings and sequences; other values stay."""
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, Mapping):
        return {name: describe_all(each) for name, each in value.items()}
    return type(value)(describe_all(each) for each in value) if type(value) in (list, tuple) else value


def _looks(module: nn.Module) -> tuple[str, dict[str, tuple[int, ...]]]:
    """How a module prints, and the shapes of its state: what a description has to build again alike."""
    return repr(module), {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _layer_class(kind: str) -> type[nn.Module]:
    """Class of the layer that the description of a head names; old ones called zoo's own by where they were defined."""
    name = kind.rpartition(":")[2] if kind.startswith("zoo_core.") else kind
    if name not in LAYERS:
        raise TypeError(f"{kind!r} is no layer that a description can name")
    return LAYERS[name]


def _layers(module: nn.Module) -> Layers | None:
    """The description of a layer or a Sequential of them; None where one is not a standard layer."""
    kind = type(module)
    name = _NAMES.get(kind)
    has_own_ways = "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks  # noqa: SLF001
    if name is None or has_own_ways:
        return None
    if kind is nn.Sequential:
        children = {path: _layers(child) for path, child in module.named_children()}
        whole = {path: child for path, child in children.items() if child}
        return Layers(name, children=whole) if len(whole) == len(children) else None
    arguments = _described_arguments(module)
    return None if arguments is None else Layers(name, arguments)


def _described_arguments(module: nn.Module) -> dict[str, Any] | None:
    """Arguments that describe a layer of a head, for its constructor, read from attributes; None when that fails."""
    result: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or name.startswith("_") or name in {"device", "dtype"}:
            continue
        if not hasattr(module, name):
            if parameter.default is parameter.empty:
                return None
            continue
        value = getattr(module, name)
        if name == "bias" and (value is None or isinstance(value, Tensor)):
            value = value is not None
        if not _is_plain(value):
            return None
        if parameter.default is parameter.empty or value != parameter.default:
            result[name] = value
    return result


def _is_plain(value: object) -> bool:
    """Whether a layer's argument can stand in the description of a head as plain data, without pickle."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple | list) and all(_is_plain(each) for each in value))
