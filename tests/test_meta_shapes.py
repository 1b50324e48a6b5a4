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
    "convolution": (lambda x: F.conv2d(x, _numbers(9, 6, 3, 3), _numbers(9), 2, 1), MAPS),
    "convolution_of_groups": (lambda x: F.conv2d(x, _numbers(6, 1, 2, 3), None, (1, 2), (1, 0), 2, groups=6), MAPS),
    "convolution_by_name": (lambda x: F.conv2d(x, weight=_numbers(9, 6, 1, 1), bias=_numbers(9), stride=[2]), MAPS),
    "convolution_same": (lambda x: F.conv2d(x, _numbers(9, 6, 3, 3), padding="same"), MAPS),
    "convolution_of_tokens": (lambda x: F.conv1d(x, _numbers(4, 7, 3), padding=1), TOKENS),
    "convolution_of_one_image": (lambda x: F.conv2d(x[0], _numbers(9, 6, 3, 3)), MAPS),
    "sigmoid": (torch.sigmoid, MAPS),
    "sigmoid_of_integers": (lambda x: x.long().sigmoid(), MAPS),
    "hardswish": (F.hardswish, MAPS),
    "relu": (lambda x: F.relu(x, inplace=True), MAPS),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), TOKENS),
    "normalize": (lambda x: F.normalize(x, dim=-1), HEADS),
    "attention": (_attention, HEADS),
    "attention_apart": (lambda x: F.scaled_dot_product_attention(x, x[..., :5, :], x[..., :5, :2]), TOKENS),
    "attention_mask": (lambda x: _attention(x, 1, 3, 7, 7), HEADS),
    "attention_by_name": (lambda x: F.scaled_dot_product_attention(query=x, key=x, value=x), HEADS),
    "attention_by_names": (lambda x: F.scaled_dot_product_attention(x, key=x, value=x, attn_mask=None), HEADS),
    "batch_norm_by_name": (lambda x: F.batch_norm(x, running_mean=_numbers(6), running_var=_numbers(6)), MAPS),
    "linear_by_name": (lambda x: F.linear(x, weight=_numbers(9, 6), bias=_numbers(9)), TOKENS),
    "group_norm_by_name": (lambda x: F.group_norm(x, num_groups=2, weight=_numbers(6), bias=_numbers(6)), MAPS),
    "sum_by_name": (lambda x: torch.add(x, other=x), MAPS),
    "sum_scaled": (lambda x: torch.add(x, x, alpha=2), MAPS),
    "product_by_name": (lambda x: x.mul(other=x), MAPS),
    "power_by_name": (lambda x: x.pow(exponent=2), MAPS),
    "mean_by_axis": (lambda x: x.mean(axis=1), MAPS),
    "rms_norm": (lambda x: F.rms_norm(x, (6,)), TOKENS),
    "sum": (lambda x: x + x, MAPS),
    "sum_number": (lambda x: x - 2, MAPS),
    "sum_channels": (lambda x: torch.add(x, _numbers(6, 1, 1)), MAPS),
    "sum_wider": (lambda x: _numbers(6, 1, 1) + x, MAPS),
    "product": (lambda x: x * _numbers(2, 1, 1, 5), MAPS),
    "product_wider": (lambda x: _numbers(2, 1, 1, 5) * x, MAPS),
    "product_wider_both_ways": (lambda x: _numbers(2, 6, 1, 1) * x[:, :1], MAPS),
    "product_double": (lambda x: x * _numbers(6).double(), TOKENS),
    "product_of_integers": (lambda x: x.long() * 0.5, TOKENS),
    "power": (lambda x: x.pow(2), MAPS),
    "power_of_numbers": (lambda x: x.pow(x[:1]), MAPS),
    "mean": (lambda x: x.mean((2, -1), keepdim=True), MAPS),
    "mean_of_one_axis": (lambda x: x.mean(1), TOKENS),
    "mean_of_all": (lambda x: x.mean(), TOKENS),
}

BAD: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "batch_norm": (lambda x: _norm(x, 5), MAPS),
    "layer_norm": (lambda x: F.layer_norm(x, (7,)), TOKENS),
    "linear": (lambda x: F.linear(x, _numbers(9, 5)), TOKENS),
    "convolution": (lambda x: F.conv2d(x, _numbers(9, 5, 3, 3)), MAPS),
    "convolution_larger_than_the_map": (lambda x: F.conv2d(x, _numbers(9, 6, 5, 5)), MAPS),
    "attention_keys": (lambda x: F.scaled_dot_product_attention(x, x[..., :2], x), HEADS),
    "attention_values": (lambda x: F.scaled_dot_product_attention(x, x, x[..., :5, :]), HEADS),
    "attention_mask": (lambda x: _attention(x, 1, 3, 16, 16), HEADS),
    "sum": (lambda x: x + _numbers(5), TOKENS),
    "product": (lambda x: x * x[:, :, :2], TOKENS),
    "mean": (lambda x: x.mean(3), TOKENS),
    "mean_of_one_axis_twice": (lambda x: x.mean((1, -2)), TOKENS),
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
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            run(_numbers(*shape))
        with MetaShapes(), pytest.raises((RuntimeError, IndexError)):
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


@pytest.mark.parametrize("layer", [layer for layer in GOOD if "attention" not in layer])  # as fused kernels do
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 0, 1, 2)])
def test_a_layer_lays_its_output_out_as_torch_does(layer: str, order: tuple[int, ...]) -> None:
    run, shape = GOOD[layer]
    axes = [axis for axis in order if axis < len(shape)]
    x = torch.empty_permuted(shape, axes, device="meta")
    with torch.no_grad():
        theirs = run(x)
        with MetaShapes():
            assert run(x).stride() == theirs.stride()


@pytest.mark.parametrize("layer", GOOD)
def test_a_gradient_goes_through_a_layer(layer: str) -> None:
    run, shape = GOOD[layer]
    x = _numbers(*shape).requires_grad_()
    if "of_integers" in layer:
        pytest.skip("integers have no gradient")
    with MetaShapes():
        run(x.clone()).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 9), TOKENS),
    "convolution": (lambda: nn.Conv2d(6, 9, 3), MAPS),
    "batch_norm": (lambda: nn.BatchNorm2d(6), MAPS),
    "group_norm": (lambda: nn.GroupNorm(2, 6), MAPS),
    "layer_norm": (lambda: nn.LayerNorm(6), TOKENS),
    "rms_norm": (lambda: nn.RMSNorm(6), TOKENS),
    "prelu": (lambda: nn.PReLU(6), MAPS),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_gradient_reaches_the_parameters_of_a_layer_and_no_frozen_one(layer: str, train: bool) -> None:
    make, shape = LAYERS[layer]
    module = make().to("meta").train(train)
    frozen, *rest = reversed([*module.parameters()])
    frozen.requires_grad_(requires_grad=not rest)
    with MetaShapes():
        module(_numbers(*shape)).sum().backward()
    assert [p.grad is not None and p.grad.shape == p.shape for p in module.parameters()] == [
        p.requires_grad for p in module.parameters()
    ]


def _write_before_gradients(module: nn.Module, x: Tensor, write: Callable[[nn.Module, Tensor, Tensor], object]) -> bool:
    made = module(x)
    with torch.no_grad():
        write(module, x, made)
    try:
        made.sum().backward()
    except RuntimeError as error:
        return "modified by an inplace operation" in str(error)
    return False


WRITES: dict[str, Callable[[Any, Tensor, Tensor], object]] = {
    "input": lambda _, x, __: x.add_(1),
    "output": lambda _, __, made: made.add_(1),
    "weight": lambda module, _, __: module.weight.add_(1),
    "bias": lambda module, _, __: module.bias.add_(1),
}
ROWS = (4, 6)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("asks", ["all", "input", "weight"])
@pytest.mark.parametrize(
    "layer",
    [
        "linear",
        "convolution",
        "batch_norm",
        "layer_norm",
        "relu",
        "gelu",
        "sigmoid",
        "hardswish",
        "product",
        "sum",
    ],
)
def test_what_is_written_to_before_the_gradients_is_refused_where_torch_refuses_it(
    layer: str, asks: str, write: str
) -> None:
    class Around(nn.Module):
        def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
            super().__init__()
            self.run = run
            self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.run(self, x)

    make: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(6, 6),
        "convolution": lambda: nn.Conv1d(4, 4, 3),
        "batch_norm": lambda: nn.BatchNorm1d(6),
        "layer_norm": lambda: nn.LayerNorm(6),
        "relu": lambda: Around(lambda _, x: F.relu(x)),
        "gelu": lambda: Around(lambda _, x: F.gelu(x)),
        "sigmoid": lambda: Around(lambda _, x: x.sigmoid()),
        "hardswish": lambda: Around(lambda _, x: F.hardswish(x)),
        "product": lambda: Around(lambda module, x: x * module.weight),
        "sum": lambda: Around(lambda module, x: x + module.weight),
    }
    answers = []
    for device in ("cpu", "meta"):
        module = make[layer]().to(device)
        x = torch.ones(ROWS, device=device, requires_grad=asks != "weight").clone()
        for name in ("weight", "bias"):
            getattr(module, name).requires_grad_(requires_grad=asks != "input")
        if not module(x).requires_grad:
            pytest.skip("no gradient")
        with MetaShapes():
            answers.append(_write_before_gradients(module, x, WRITES[write]))
    assert answers[0] == answers[1]


def test_a_norm_that_trains_refuses_one_number_a_channel() -> None:
    layer = nn.BatchNorm1d(6, device="meta")
    with MetaShapes(), pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(_numbers(1, 6))


def test_a_tensor_on_another_device_is_left_to_torch() -> None:
    with MetaShapes(), pytest.raises(RuntimeError, match="device"):
        _ = _numbers(2, 3) + torch.ones(2, 3)


def test_attention_lays_the_heads_of_a_token_side_by_side_as_fused_kernels_do() -> None:
    with torch.no_grad(), MetaShapes():
        assert _attention(_numbers(*HEADS)).transpose(1, 2).is_contiguous()


def test_an_output_is_written_to_as_one_of_torch() -> None:
    q = _numbers(*HEADS).requires_grad_()
    with MetaShapes():
        made = F.scaled_dot_product_attention(q, q, q).add_(1)
        F.relu(made, inplace=True).sum().backward()
    assert q.grad is not None
