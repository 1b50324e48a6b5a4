"""Noise, and copies full of it, to run a changed model on, to see that what is known of its parts still holds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


def noise(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Noise to run parts of an anatomy on, to see that it holds: the same each time, for a model's device and dtype."""
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0, device="cpu"))
    # said to be on the CPU, where its generator is: torch's default device may be another
    result = torch.randn(*shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return result.to(device=like.device, dtype=like.dtype)


def placed(model: nn.Module, example: Any) -> Any:
    """What a model takes, on its device and, where that is of floating point, in its dtype, to run a changed one on."""
    like = noise(model, (1,))

    def place(each: object) -> object:
        if not isinstance(each, torch.Tensor):
            return each
        return each.to(like) if each.is_floating_point() else each.to(like.device)

    return tree_map(place, example)


def noise_like(model: nn.Module, size: tuple[int, ...], example: Any) -> Any:
    """Noise to run a model and its anatomy on: of that size, or like an example."""
    if example is None or (isinstance(example, torch.Tensor) and example.shape[1:] != size):  # its stem was changed
        return noise(model, (1, *size))
    leaves = [each for each in tree_leaves(example) if isinstance(each, torch.Tensor) and each.is_floating_point()]
    factors = {id(each): 1 + index for index, each in enumerate(leaves)}  # a Siamese pair must not be the same twice
    noisy = tree_map(
        lambda each: noise(model, each.shape) * factors[id(each)] if id(each) in factors else each, example
    )
    return placed(model, noisy)


def noisy_copy(model: nn.Module) -> nn.Module:
    """A copy full of noise, on the CPU, to try a changed model on: this one may have no values yet, or no storage."""
    result = copy.deepcopy(model)
    virtual = any(tensor.device.type == "meta" for tensor in result.state_dict().values())
    result = result.to_empty(device="cpu") if virtual else result.to(device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*result.parameters(), *result.buffers()):
            if tensor.is_floating_point():
                values = torch.rand(tensor.shape, generator=generator, device="cpu")
                tensor.copy_(values / tensor[0].numel() if tensor.dim() > 1 else values)  # so that nothing overflows
            elif virtual:
                tensor.zero_()
    return result
