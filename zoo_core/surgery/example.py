"""An image that a model takes, where surgery has to run it once to know what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.surgery.stem.in_channels import CONVOLUTIONS, channels_of_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_SIDE = 224
"""Pixels a side that a model is tried with when nothing says what it was designed for."""


def example_input(model: nn.Module, size: Sequence[int] | None = None, *, side: int | None = None) -> Tensor:
    """One example image of noise, of the size the model was designed for, on its device and in its dtype.

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
    card, kept = metadata_of(model).card, metadata_of(model).example
    if kept is not None and size is None and side is None:
        return _of_example(bare, kept)
    chosen = tuple(size or (card.input_size if card else (3, _SIDE, _SIDE)))
    if len(chosen) < 3 or any(type(number) is not int or number < 1 for number in chosen):  # noqa: PLR2004 - C, H, W
        raise UsageError(f"input_size cannot be {size!r}", expected="channels, height and width, such as (3, 224, 224)")
    if size is None:
        chosen = (_channels(model, (chosen[-2], chosen[-1])), *chosen[1:])
    if side is not None:
        chosen = (chosen[0], *[side] * len(chosen[1:]))
    like = next((p for p in bare.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    # said to be on the CPU, where its generator is: torch's default device may be another
    noise = torch.randn(1, *chosen, generator=torch.Generator().manual_seed(0), device="cpu")
    return noise.to(device=like.device, dtype=like.dtype)


def _of_example(model: nn.Module, kept: object) -> Tensor:
    """Noise of the shape of the example input that a module was traced with; an example of integers as it is."""
    if not isinstance(kept, torch.Tensor):
        raise NotSupported(
            f"this {type(model).__name__} cannot be tried with an image",
            cause=f"its forward takes a {type(kept).__name__} of several values",
            hint="zoo.features(model, x, at=[...]) takes what forward takes",
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    if not kept.is_floating_point():
        return kept.to(like.device)
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return noise.to(device=like.device, dtype=like.dtype)


def refuse_auxiliary(model: nn.Module, verb: str) -> None:
    """Raise NotSupported where other heads hang on layers that ``verb`` takes out of the forward."""
    others = [site for site in anatomy_of(model).heads if site.role != "main"]
    if not others:
        return
    paths = ", ".join(site.path for site in others)
    auxiliary = all(site.role == "aux" for site in others)
    raise NotSupported(
        f"this {type(unwrap(model)).__name__} cannot be used with {verb}: it has more than one head site",
        cause=f"{paths} would never run again and only look trained"
        if auxiliary
        else f"its own forward goes on computing with what several heads give, {paths} among them",
        hint="build it without them, as options={'aux_logits': False} does for Inception and GoogLeNet"
        if auxiliary
        else "models with a single head can, such as torchvision's classifiers",
    )


def channels_told(model: nn.Module) -> int:
    """Channels of an example image for a model: by its last edit of them, its own example, or its card."""
    known = metadata_of(model)
    edits = [edit.arguments["in_channels"] for edit in known.edits if edit.verb == "adapt_stem"]
    if known.example is not None and not edits:
        return int(known.example.shape[1]) if isinstance(known.example, torch.Tensor) else 3
    return int(edits[-1]) if edits else known.card.input_size[0] if known.card else 3


def _channels(model: nn.Module, size: tuple[int, int]) -> int:
    """How many channels an example image has, also where the model was built for others than its card says."""
    told, stem = channels_told(model), anatomy_of(model).stem
    layer = unwrap(model).get_submodule(stem[0]) if stem else None
    if not isinstance(layer, CONVOLUTIONS):
        return told
    return channels_of_images(unwrap(model), layer, told, size)
