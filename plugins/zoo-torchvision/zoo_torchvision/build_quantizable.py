"""Models that can be quantised, built as the library builds them, where the engine for it is there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model_builder

from zoo_core.plugin import ZooError

_TRAINED_QUANTISED = "quantized_mobilenet_v3_large"


def build(name: str, *, quantize: bool = False, backend: str | None = None, **options: Any) -> nn.Module:
    """Build a model of torchvision that can be quantised, in floats or quantised.

    Args:
        name: The library's name for the model, with ``quantized_`` before it.
        quantize: Whether it is made of 8-bit integers; then it is in eval mode, and cannot be trained.
        backend: The engine that it is quantised for, ``"fbgemm"`` or ``"qnnpack"``; None is the library's choice.
        **options: For the library's own constructor.

    Raises:
        ZooError: torch has no such engine on this machine.
        ValueError: The library has no model of that name.

    Example:
        >>> type(build("quantized_mobilenet_v2")).__name__
        'QuantizableMobileNetV2'
    """
    engines = torch.backends.quantized.supported_engines
    if quantize and backend is not None and backend not in engines:
        raise ZooError(
            f"{name} is quantised for {backend}, which torch has not on this machine",
            got=f"engines: {', '.join(engines) or 'none'}",
            hint=f"the float model: zoo.get('torchvision/{name.removeprefix('quantized_')}')",
        )
    chosen = {} if backend is None else {"backend": backend}
    with _quiet():
        model: nn.Module = get_model_builder(name)(weights=None, quantize=quantize, **chosen, **options)
    return model


def trained_quantised(
    state: Mapping[str, Any],
    model: nn.Module,  # noqa: ARG001 - the contract of Weights.convert
) -> Mapping[str, Any]:
    """Build a quantizable model to turn a file trained with quantisation in mind into the state of the quantised one.

    The library loads the file of MobileNetV3 into a model that is prepared for such training, and converts that; see
    https://github.com/pytorch/vision/issues/5890.

    Args:
        state: What the file holds: floats, and the ranges that were observed.
        model: The quantised model that the result is for.
    """
    with _quiet():
        ready: Any = get_model_builder(_TRAINED_QUANTISED)(weights=None, quantize=False)
        ready.fuse_model(is_qat=True)
        quantization: Any = torch.ao.quantization  # most of it has no types
        ready.qconfig = quantization.get_default_qat_qconfig("qnnpack")
        quantization.prepare_qat(ready, inplace=True)
        ready.load_state_dict(state)
        quantization.convert(ready, inplace=True)
    result: Mapping[str, Any] = ready.state_dict()
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch warns of while it builds a model that can be quantised.

    That is that ``torch.ao.quantization`` will end one day, and how its observers compute ranges.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.ao")
        yield
