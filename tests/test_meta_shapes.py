from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from collections.abc import Callable

MAPS, TOKENS, HEADS = (2, 6, 4, 5), (2, 7, 6), (2, 3, 7, 4)


def _numbers(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _norm(x: Tensor, count: int = 6) -> Tensor:
    return F.batch_norm(x, _numbers(count), _numbers(count))


def _attention(x: Tensor, *mask: int) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, attn_mask=_numbers(*mask) if mask else None)


GOOD: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "batch_norm": (_norm, MAPS),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), TOKENS),
    "linear": (lambda x: F.linear(x, _numbers(9, 6), _numbers(9)), TOKENS),
    "relu": (lambda x: F.relu(x, inplace=True), MAPS),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), TOKENS),
    "normalize": (lambda x: F.normalize(x, dim=-1), HEADS),
    "attention": (_attention, HEADS),
    "attention_apart": (lambda x: F.scaled_dot_product_attention(x, x[..., :5, :], x[..., :5, :2]), TOKENS),
    "attention_mask": (lambda x: _attention(x, 1, 3, 7, 7), HEADS),
}

BAD: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "batch_norm": (lambda x: _norm(x, 5), MAPS),
    "layer_norm": (lambda x: F.layer_norm(x, (7,)), TOKENS),
    "linear": (lambda x: F.linear(x, _numbers(9, 5)), TOKENS),
    "attention_keys": (lambda x: F.scaled_dot_product_attention(x, x[..., :2], x), HEADS),
    "attention_values": (lambda x: F.scaled_dot_product_attention(x, x, x[..., :5, :]), HEADS),
    "attention_mask": (lambda x: _attention(x, 1, 3, 16, 16), HEADS),
}


@pytest.mark.parametrize("layer", GOOD)
def test_a_layer_gives_the_shape_that_torch_gives(layer: str) -> None:
    run, shape = GOOD[layer]
    with torch.no_grad():
        theirs = run(_numbers(*shape))
        with MetaShapes():
            ours = run(_numbers(*shape))
    assert (ours.shape, ours.dtype, ours.is_meta) == (theirs.shape, theirs.dtype, True)


@pytest.mark.parametrize("layer", BAD)
def test_a_layer_refuses_what_torch_refuses(layer: str) -> None:
    run, shape = BAD[layer]
    with torch.no_grad():
        with pytest.raises((RuntimeError, ValueError)):
            run(_numbers(*shape))
        with MetaShapes(), pytest.raises(RuntimeError):
            run(_numbers(*shape))


def test_values_are_left_to_torch() -> None:
    x = torch.tensor([-1.0, 2.0])
    with torch.no_grad(), MetaShapes():
        assert F.relu(x).tolist() == [0.0, 2.0]


def test_what_is_frozen_is_as_fast() -> None:
    with MetaShapes():
        found = F.linear(_numbers(*TOKENS), _numbers(9, 6))
    assert found.shape == (2, 7, 9)
    assert not found.requires_grad


def test_gradients_are_left_to_torch() -> None:
    layer: Any = nn.Linear(6, 9, device="meta")
    with MetaShapes():
        layer(_numbers(*TOKENS)).sum().backward()
    assert layer.weight.grad.shape == (9, 6)
