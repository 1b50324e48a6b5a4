"""First layers that compute their filters from their weight, as by standardizing it: the response is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo_core.errors import NotSupported
from zoo_core.surgery.stem.in_channels import CONVOLUTIONS, inputs_of

if TYPE_CHECKING:
    from zoo_core.surgery.stem.filters import Plan


def check_response(layer: nn.Module, plan: Plan, channels: int) -> None:
    """Refuse what cannot be done to a layer that computes its filters from its weight.

    Raises:
        NotSupported: A channel cannot start silent, or the size of the responses cannot be kept.
    """
    gain = getattr(layer, "gain", None)
    has_gain = isinstance(gain, Tensor) and gain.numel() == cast("Tensor", layer.weight).shape[0]
    if plan.silent(channels):
        _check_can_be_silent(layer, 'policy="mean" or policy="repeat"' if has_gain else 'policy="random"')
    if plan.policy == "random" or not computes_filters(layer):
        return
    if not has_gain:
        raise NotSupported(
            f"the responses of {layer} cannot be kept with another number of channels",
            cause="it standardizes its weight, and has no gain that could make up for it",
            done="nothing was changed",
            hint='policy="random" draws fresh filters',
        )
    if plan.policy == "zero" and not plan.rearranges(channels):
        raise NotSupported(
            f"the filters of {layer} cannot be kept channel by channel",
            cause="it standardizes its weight over all channels, so that a filter is another one without some of them",
            done="nothing was changed",
            hint='policy="mean" or policy="repeat"',
        )


def computes_filters(layer: nn.Module) -> bool:
    """Whether a layer computes its filters: twice the weight does not give twice the response.

    Example:
        >>> computes_filters(nn.Conv2d(3, 4, 3))
        False
    """
    if type(layer) in CONVOLUTIONS or not isinstance(layer, CONVOLUTIONS) or next(layer.parameters()).is_meta:
        return False
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.ones_like(tensor) for name, tensor in layer.named_parameters()}
    if "bias" in state:
        state["bias"] = torch.zeros_like(state["bias"])
    weight = torch.randn(state["weight"].shape, generator=generator, device="cpu").to(state["weight"])
    x = torch.randn(1, inputs_of(layer), *_reach(layer), generator=generator, device="cpu").to(weight)
    once, twice = (functional_call(layer, {**state, "weight": weight * factor}, (x,)) for factor in (1, 2))
    return not torch.allclose(twice, 2 * once, rtol=1e-2, atol=1e-4)


@torch.enable_grad()
def effective_filters(layer: nn.Module) -> Tensor:
    """The filters that a layer applies, ``[out, in, ...]``: the derivative of its response in the middle."""
    sides = [3 * side for side in _reach(layer)]
    weight = cast("Tensor", layer.weight)
    x = torch.zeros(1, inputs_of(layer), *sides, device=weight.device, dtype=weight.dtype, requires_grad=True)
    response = layer(x)[0].flatten(1)
    middle = response[:, _middle(layer(x))]
    rows = [torch.autograd.grad(each, x, retain_graph=True)[0][0] for each in middle]
    result = torch.stack(rows).detach()
    return result[(slice(None), slice(None), *_windows(layer, result))]


def fit_gain(layer: nn.Module, target: Tensor) -> None:
    """Set the gain of a layer so that the filters it applies are as large as those of ``target``, for each output."""
    gain = cast("Tensor", layer.gain)
    now = effective_filters(layer).flatten(1).norm(dim=1)
    size = target.to(now).flatten(1).norm(dim=1)
    with torch.no_grad():
        gain.mul_(torch.where(now > 0, size / now, 1).view_as(gain))


def _middle(response: Tensor) -> int:
    """The index, among all places at which the response of a layer is measured, of the one in the middle."""
    index = 0
    for side in response.shape[2:]:
        index = index * side + side // 2
    return index


def _windows(layer: nn.Module, found: Tensor) -> list[slice]:
    """For each axis of the image, where the window of the filters whose response is measured lies."""
    slices = []
    steps = cast("tuple[int, ...]", layer.dilation)
    for axis, side in enumerate(cast("Tensor", layer.weight).shape[2:], start=2):
        others = [each for each in range(found.dim()) if each != axis]
        places = found.abs().amax(dim=others).nonzero().flatten()
        first = int(places[0]) if len(places) else 0
        slices.append(slice(first, first + (side - 1) * steps[axis - 2] + 1, steps[axis - 2]))
    return slices


def _reach(layer: nn.Module) -> list[int]:
    """Pixels on each side over which the filters of a layer respond, dilation included."""
    sides = cast("Tensor", layer.weight).shape[2:]
    dilation = getattr(layer, "dilation", 1)
    return [side * (dilation[axis] if isinstance(dilation, tuple) else 1) for axis, side in enumerate(sides)]


def _check_can_be_silent(layer: nn.Module, hint: str) -> None:
    """Refuse a layer with a response to a channel on which its weights are zero.

    Args:
        layer: The convolution.
        hint: What can be done instead.

    Raises:
        NotSupported: The layer hears a channel whose weights are zero.
    """
    # ones, because the caller who is about to load values may not have drawn any
    state = {name: torch.ones_like(tensor) for name, tensor in layer.named_parameters()}
    weight = state["weight"].detach()
    if weight.is_meta:
        return
    weight[:, 0] = 0
    quiet = weight.new_zeros(1, inputs_of(layer), *_reach(layer))
    loud = quiet.clone()
    loud[:, 0] = 1
    answers = [functional_call(layer, {**state, "weight": weight}, (x,)) for x in (quiet, loud)]
    if not torch.equal(*answers):
        raise NotSupported(
            f"no channel can start silent in {layer}",
            cause="it computes its filters from its weight, so that a weight of zero is not a filter of zero",
            hint=hint,
        )
