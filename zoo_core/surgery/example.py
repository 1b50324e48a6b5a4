"""A picture that a model takes, where surgery has to run it once to know what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.knowledge import anatomy_of, knowledge_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

_SIDE = 224
"""Pixels a side that a model is tried with when nothing says what it was designed for."""


def example_input(model: nn.Module, size: Sequence[int] | None = None, *, side: int | None = None) -> Tensor:
    """One picture of noise, of the size the model was designed for, on its device and in its dtype.

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
    card = knowledge_of(model).card
    chosen = tuple(size or (card.input_size if card else (3, _SIDE, _SIDE)))
    if len(chosen) < 3 or any(type(number) is not int or number < 1 for number in chosen):  # noqa: PLR2004 - C, H, W
        raise UsageError(f"input_size cannot be {size!r}", expected="channels, height and width, such as (3, 224, 224)")
    if size is None:
        chosen = (_channels(bare, anatomy_of(model).stem) or chosen[0], *chosen[1:])
    if side is not None:
        chosen = (chosen[0], *[side] * len(chosen[1:]))
    like = next((p for p in bare.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    # said to be on the CPU, where its generator is: torch's default device may be another
    noise = torch.randn(1, *chosen, generator=torch.Generator().manual_seed(0), device="cpu")
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


def _channels(model: nn.Module, stem: tuple[str, ...]) -> int | None:
    """What the first layer takes now, which another stem may have changed."""
    found = getattr(model.get_submodule(stem[0]), "in_channels", None) if stem else None
    return found if isinstance(found, int) else None
