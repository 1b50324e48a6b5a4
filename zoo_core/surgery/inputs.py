"""What a model takes: an example of its input, and what is wrong with an input that it cannot run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.surgery.metadata import anatomy_of, is_known, metadata_of, unwrap
from zoo_core.surgery.noise import noise, placed
from zoo_core.surgery.stem.filters import CONVOLUTIONS, channels_by_filters


def example_input(model: nn.Module, size: Sequence[int] | None = None, *, side: int | None = None) -> Tensor:
    """An example input: one image of noise, of the size the model was designed for, on its device and in its dtype.

    The noise is the same every time, and the global random state is not touched.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        size: Channels, height and width instead of those of its card.
        side: Height and width alone.

    Returns:
        ``[1, C, H, W]``.

    Raises:
        UsageError: ``size`` is not a row of positive numbers.
    """
    bare = unwrap(model)
    known = metadata_of(model)
    kept = known.example
    if kept is not None and size is None and side is None:
        return _like_example(bare, kept)
    chosen = tuple(size or known.designed_size(bare))
    if len(chosen) < 3 or any(type(number) is not int or number < 1 for number in chosen):  # noqa: PLR2004 - C, H, W
        raise UsageError(f"input_size cannot be {size!r}", expected="channels, height and width, such as (3, 224, 224)")
    if size is None:
        channels, stem = channels_told(model), known.anatomy.stem
        layer = bare.get_submodule(stem[0]) if stem else None
        if isinstance(layer, CONVOLUTIONS):  # the model may have been built for other channels than its card says
            channels = channels_by_filters(bare, layer, channels, chosen[-2:])
        chosen = (channels, *chosen[1:])
    if side is not None:
        chosen = (chosen[0], *[side] * len(chosen[1:]))
    return noise(bare, (1, *chosen))


def _like_example(model: nn.Module, kept: object) -> Tensor:
    """Example input like the one that a module was adopted with: noise of its shape, or itself if it is of integers."""
    if not isinstance(kept, torch.Tensor):
        raise NotSupported(
            f"this {type(model).__name__} cannot be tried with an image",
            cause=f"its forward takes a {type(kept).__name__} of several values",
            hint="zoo.features(model, x, at=[...]) takes what forward takes",
        )
    like = noise(model, kept.shape)
    return like if kept.is_floating_point() else kept.to(like.device)


def channels_told(model: nn.Module) -> int:
    """Channels of the images that a model takes as input: by its last edit of them, its own example, or its card."""
    known = metadata_of(model)
    edits = [edit.arguments["in_channels"] for edit in known.edits if edit.verb == "adapt_stem"]
    if known.example is not None and not edits:
        return int(known.example.shape[1]) if isinstance(known.example, torch.Tensor) else 3
    return int(edits[-1]) if edits else known.card.input_size[0] if known.card else 3


FAILING = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError, KeyError)
"""What forward passes raise for an input that is wrong."""


@contextmanager
def naming_wrong_input(model: nn.Module, x: Any, verb: str) -> Iterator[None]:
    """Run a model inside the block; where it fails on a wrong input, say what is wrong with that.

    Raises:
        UsageError: The input is none that the model takes. Errors of the model itself stay as they are.
    """
    try:
        yield
    except FAILING as error:
        named = wrong_input(model, x, f"zoo.{verb}", error)
        if named is None:
            raise
        raise named from error


def wrong_input(model: nn.Module, x: Any, taker: str, error: Exception) -> UsageError | None:
    """The error that says what is wrong with the input that a model failed on; None for an error of the model itself.

    Args:
        model: What ran, known to zoo or not.
        x: What it was given.
        taker: What took it from the user, in words.
        error: What forward raised.
    """
    is_named = isinstance(error, ZooError | torch.OutOfMemoryError)
    wrong = None if is_named else _wrong(unwrap(model), x)
    if wrong is None:
        return None
    return UsageError(
        f"this {type(unwrap(model)).__name__} cannot run on what {taker} was given",
        expected=wrong[0],
        got=wrong[1],
        cause=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no words'}",
        hint=wrong[2],
    )


def _wrong(model: nn.Module, x: object) -> tuple[str, str, str] | None:
    """What the input of a model should be, what it is, and what to do; None where nothing is seen to be wrong."""
    like = next((each for each in model.parameters() if each.is_floating_point()), None)
    known = is_known(model)
    example = metadata_of(model).example if known else None
    if example is not None and _kinds(x) != _kinds(example):
        return f"{_kinds(example)}, as the example it was traced with", _kinds(x), "give it what its forward takes"
    if not isinstance(x, Tensor):
        prepared = "zoo.transforms(model)(image).unsqueeze(0) makes one of an image"
        return ("a tensor", f"a {type(x).__name__}", prepared) if known and example is None else None
    if like is not None and x.device != like.device:
        return f"a tensor on {like.device}, where the model is", f"one on {x.device}", f'x.to("{like.device}")'
    if like is not None and x.is_floating_point() and x.dtype != like.dtype:
        return f"{like.dtype}, as the model has", f"{x.dtype}", "x.to(next(model.parameters()).dtype)"
    return _wrong_shape(model, x) if known else None


def _kinds(value: object) -> str:
    """What kinds of values an input of a model has, in words: a tensor, a tuple of them, or a dict by name."""
    if isinstance(value, tuple) and len(value) != 1:
        return f"a tuple of {', '.join(map(_kind, value)) or 'nothing'}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted(f'{name}: {_kind(each)}' for name, each in value.items()))}"
    return f"a {_kind(value[0] if isinstance(value, tuple) else value)}"


def _kind(value: object) -> str:
    """The name of the class of one value of an input of a model."""
    return "Tensor" if isinstance(value, Tensor) else type(value).__name__


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


def example_like(body: nn.Module, x: Any) -> Any:
    """An example input on the device of ``x``: an image, or the values that the model was traced with."""
    example = metadata_of(body).example
    if example is None or isinstance(example, Tensor):
        return example_input(body).to(x)
    return placed(body, example)
