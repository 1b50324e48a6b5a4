"""What a model under test gives: the tensors and scores in its outputs, and whether two outputs are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.under_test import only_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def tensors(output: object) -> Iterator[Tensor]:
    """The tensors in what a model returned: itself, or those of a tuple, a mapping or a library's output object."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors(item)
    elif hasattr(output, "__dict__"):
        yield from tensors(vars(output))


def difference(ours: Tensor, theirs: Tensor) -> str:
    """How two outputs differ, in a few characters."""
    if ours.shape != theirs.shape:
        return f"shape, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return f"{(ours - theirs).abs().max().item():.2g}"


def scores_of(model: nn.Module, *given: Any) -> Tensor:  # noqa: ANN401 - whatever models of its task are called with
    """The scores a model gives for what it is called with; the first of them where it gives several."""
    return next(tensors(anatomy_of(model).scores_in(model(*given))))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs are equal bit for bit; on the meta device their shapes, and the verdict says so."""
    if ours.is_meta:
        only_shapes("values")
    return ours.shape == theirs.shape and (ours.is_meta or torch.equal(ours, theirs))
