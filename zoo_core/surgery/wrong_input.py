"""Why a model cannot run on what it was given, where a library's own error says less."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError, ZooError
from zoo_core.surgery.example import example_input
from zoo_core.surgery.metadata import anatomy_of, is_known, metadata_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_LIBRARIES = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError, KeyError)
"""What forward passes raise for an input that is wrong."""


@contextmanager
def naming_wrong_input(model: nn.Module, x: Any, verb: str) -> Iterator[None]:
    """Run a model inside the block; where it fails on a wrong input, say what is wrong with that.

    Args:
        model: What runs, known to zoo or not.
        x: What it is given.
        verb: Name of the public function.

    Raises:
        UsageError: The input is none that the model takes. Errors of the model itself stay as they are.
    """
    try:
        yield
    except (ZooError, torch.OutOfMemoryError):
        raise
    except _OF_LIBRARIES as error:
        wrong = _wrong(unwrap(model), x)
        if wrong is None:
            raise
        raise UsageError(
            f"this {type(unwrap(model)).__name__} cannot run on what zoo.{verb} was given",
            expected=wrong[0],
            got=wrong[1],
            cause=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no words'}",
            hint=wrong[2],
        ) from error


def _wrong(model: nn.Module, x: object) -> tuple[str, str, str] | None:
    """What the input of a model should be, what it is, and what to do; None where nothing is seen to be wrong."""
    like = next((each for each in model.parameters() if each.is_floating_point()), None)
    known = is_known(model)
    if not isinstance(x, Tensor):
        is_image = known and metadata_of(model).example is None
        prepared = "zoo.transforms(model)(image).unsqueeze(0) makes one of an image"
        return ("a tensor", f"a {type(x).__name__}", prepared) if is_image else None
    if like is not None and x.device != like.device:
        return f"a tensor on {like.device}, where the model is", f"one on {x.device}", f'x.to("{like.device}")'
    if like is not None and x.is_floating_point() and x.dtype != like.dtype:
        return f"{like.dtype}, as the model has", f"{x.dtype}", "x.to(next(model.parameters()).dtype)"
    return _wrong_shape(model, x) if known else None


def _wrong_shape(model: nn.Module, x: Tensor) -> tuple[str, str, str] | None:
    """What dtype and shape the images of a known model have, where those of an input are others."""
    try:
        example = example_input(model)
    except ZooError:
        return None
    stem = anatomy_of(model).stem
    shown = f"[N, {', '.join(str(each) for each in example.shape[1:])}]"
    if example.is_floating_point() and not x.is_floating_point():
        return "numbers with fractions, such as images that are normalized", f"{x.dtype}", "zoo.transforms(model)(x)"
    if x.dim() != example.dim():
        step = "x.unsqueeze(0) makes a batch of one image" if x.dim() == example.dim() - 1 else "print(x.shape)"
        return f"a batch, such as {shown}", f"{[*x.shape]}", step
    if stem and x.shape[1] != example.shape[1]:
        step = f"zoo.adapt_stem(model, {x.shape[1]}) gives the model a stem for {x.shape[1]} channels"
        last = x.dim() > 2 and x.shape[-1] == example.shape[1]  # noqa: PLR2004 - a batch of maps
        return f"{example.shape[1]} channels, such as {shown}", f"{[*x.shape]}", "x.movedim(-1, 1)" if last else step
    return None
