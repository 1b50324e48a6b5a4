"""What is requested of a model, checked before anything is downloaded or built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch

from zoo_core.errors import UsageError
from zoo_core.utils.arguments import check_count, check_seed, unknown_argument
from zoo_core.utils.device import usable_device

if TYPE_CHECKING:
    from zoo_core.surgery.head.fit import HeadLike

Freeze = str | Sequence[str] | Mapping[str, Any]

_FREEZE = ("what", "until", "stages", "first", "last", "norm")


@dataclass(frozen=True)
class ModelRequest:
    """What a model is to be, where that differs from what its library and its weights make it; None leaves it so."""

    num_classes: int | None = None
    head: HeadLike | None = None
    in_channels: int | None = None
    num_keypoints: int | None = None
    freeze: Freeze | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    channels_last: bool = False
    seed: int | None = None
    options: Mapping[str, object] | None = None
    ema: bool | None = None
    prefix: str | None = None

    @property
    def new_head(self) -> HeadLike:
        """The head as ``swap_head`` takes it; None for none, which is 0 classes."""
        return self.head if self.head is not None else self.num_classes or None

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The request, in torch's own terms, when it is possible at all.

        Raises:
            UsageError: A value is impossible, or two of them say the same thing.
        """
        if given.get("head") is not None and given.get("num_classes") is not None:
            raise UsageError(
                "num_classes and head both say what the head is", hint="leave num_classes out: the head has its own"
            )
        checks: dict[str, Callable[[Any], Any]] = {
            "num_classes": partial(check_count, "num_classes", least=0),
            "in_channels": partial(check_count, "in_channels"),
            "num_keypoints": partial(check_count, "num_keypoints"),
            "freeze": _freeze,
            "device": usable_device,
            "dtype": _dtype,
            "channels_last": partial(_of_kind, "channels_last", bool, "True or False"),
            "seed": check_seed,
            "options": _options,
            "ema": partial(_of_kind, "ema", bool, "True for averaged weights only, False for none of them"),
            "prefix": partial(_of_kind, "prefix", str, "what is before each name, such as 'model.'"),
        }
        requested = {name: value for name, value in given.items() if value is not None}
        return cls(**{name: checks[name](value) if name in checks else value for name, value in requested.items()})


def _dtype(dtype: object) -> torch.dtype:
    """The dtype that is requested, checked."""
    result = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(result, torch.dtype) or not (result.is_floating_point or result.is_complex):
        raise UsageError(
            f"dtype cannot be {dtype!r}",
            expected="a floating-point dtype, such as torch.float32 or 'bfloat16'",
            hint="leave it out to keep that of the model",
        )
    return result


def _of_kind(name: str, kind: type, expected: str, value: object) -> object:
    """A requested value as it is, when it is of that class."""
    if not isinstance(value, kind):
        raise UsageError(f"{name} cannot be {value!r}", expected=expected)
    return value


def _freeze(freeze: object) -> Freeze:
    """What is requested to be frozen, checked."""
    if isinstance(freeze, Mapping):
        for name in freeze:
            if name not in _FREEZE:
                raise unknown_argument("freeze", name, _FREEZE)
        return freeze
    names = (freeze,) if isinstance(freeze, str) else freeze
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"freeze cannot be {freeze!r}",
            expected="'backbone', a list of names and patterns, or a mapping such as {'until': 'layer4'}",
        )
    return names


def _options(options: object) -> Mapping[str, object]:
    """The requested options of the constructor, checked."""
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise UsageError(
            f"options cannot be {options!r}",
            expected="a mapping of the constructor's own arguments, such as {'aux_logits': False}",
        )
    if "num_classes" in options:
        raise UsageError("num_classes is no option here", hint="zoo.get(..., num_classes=...) says it for every family")
    return options
