"""The filters of a first layer: which channel of the image each input is of, and what other channels make of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo_core.errors import NotSupported, UsageError
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.eval_mode import evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FRAMES = 16


@dataclass(frozen=True)
class Order:
    """How the inputs of first-layer filters lie: input ``j`` comes from channel ``j // inner % channels`` of the image.

    A plain convolution has one input a channel. After space-to-depth or in a linear patch embedding, each channel has
    many: ``inner`` is 1 when the channels of one pixel lie together, and the pixels of a block when those do.

    Attributes:
        channels: Channels of the image.
        inner: How many neighbouring inputs come from one channel.

    Example:
        >>> Order(channels=3, inner=4).by_channel(torch.arange(24).view(1, 24)).shape
        torch.Size([1, 3, 2, 4])
    """

    channels: int
    inner: int = 1

    def by_channel(self, weight: Tensor) -> Tensor:
        """``[out, inputs, ...]`` to ``[out, channels, outer, inner, ...]``."""
        out, inputs, *kernel = weight.shape
        outer = inputs // (self.channels * self.inner)
        return weight.reshape(out, outer, self.channels, self.inner, *kernel).transpose(1, 2).contiguous()

    @staticmethod
    def by_input(weight: Tensor) -> Tensor:
        """``[out, channels, outer, inner, ...]`` back to ``[out, inputs, ...]``."""
        return weight.transpose(1, 2).flatten(1, 3)


def order_of(
    model: nn.Module, layer: nn.Module, expected: int, size: tuple[int, ...], *, is_traced: bool = False
) -> Order:
    """In what order the filters of a first layer take the channels of the image.

    A layer with as many inputs as the image has channels takes them as they are. Any other is watched while the front
    of the model runs on images in which one channel is lit.

    Args:
        model: The model, as it is now; left in the mode it is in.
        layer: One of its first layers, a convolution or a linear layer.
        expected: How many channels the image probably has.
        size: Height and width of an image that the model takes, in pixels.
        is_traced: No plugin declares that a convolution with as many inputs as channels takes them in their order.

    Raises:
        NotSupported: No number of channels explains what the layer is given.
    """
    inputs = input_channels_of(layer)
    divisors = [n for n in range(1, inputs + 1) if inputs % n == 0]
    is_plain = isinstance(layer, CONVOLUTIONS) and inputs == expected
    if is_plain and not (is_traced and _reorders(model, layer, size)):
        return Order(expected)
    if next(layer.parameters()).is_meta:
        raise _unclear(layer, "a model on the meta device cannot be run", "do it before the model goes there")
    with evaluating(model):
        for channels in dict.fromkeys([expected, *divisors]):
            owners = _owners(model, layer, channels, size)
            inner = next((n for n in divisors if owners == [j // n % channels for j in range(inputs)]), None)
            inner = inner if inputs % channels == 0 else None  # it is given a part of the channels
            if owners and inner:
                return Order(channels, inner)
    raise _unclear(layer, f"no number of channels explains its {inputs} inputs", "change the layer by hand")


def channels_by_filters(model: nn.Module, layer: nn.Module, expected: int, size: tuple[int, ...]) -> int:
    """How many channels images have by first-layer filters: as many as these take, or what comes to that many there."""
    inputs, axis = input_channels_of(layer), _axis(layer)
    if inputs == expected:
        return expected
    with evaluating(model):
        for channels in (expected, inputs):
            given = _given_to_filters(model, layer, _image_for_filters(layer, channels, size))
            if given is not None and given.shape[axis] == inputs:
                return channels
    return expected


def input_channels_of(layer: nn.Module) -> int:
    """How many input channels first-layer filters have, over all groups; inputs, of a linear layer."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


class _FiltersReached(Exception):
    """No error: stops the forward pass where first-layer filters run, with what these are given."""

    def __init__(self, given: Tensor) -> None:
        self.given = given


def _owners(model: nn.Module, layer: nn.Module, channels: int, size: tuple[int, ...]) -> list[int]:
    """For each input of first-layer filters the one channel of the image that it comes from; empty when unclear."""
    axis, dark = _axis(layer), _image_for_filters(layer, channels, size)
    base = _given_to_filters(model, layer, dark)
    if base is None or base.shape[axis] != input_channels_of(layer):
        return []
    lit = []
    for channel in range(channels):
        image = dark.clone()
        image[:, channel] = 1
        given = _given_to_filters(model, layer, image)
        if given is None:
            return []
        lit.append((given != base).movedim(axis, 0).flatten(1).any(1))
    seen = torch.stack(lit)  # [channels, inputs]
    return seen.int().argmax(0).tolist() if bool((seen.sum(0) == 1).all()) else []


def _reorders(model: nn.Module, layer: nn.Module, size: tuple[int, ...]) -> bool:
    """Whether first-layer filters are seen to take the channels in another order, as those after ``x.flip(1)`` do."""
    if next(layer.parameters()).is_meta:
        return False
    with evaluating(model):
        owners = _owners(model, layer, input_channels_of(layer), size)
    return owners != sorted(owners)


def _axis(layer: nn.Module) -> int:
    """The axis that the input channels of first-layer filters are on."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _image_for_filters(layer: nn.Module, channels: int, size: tuple[int, ...]) -> Tensor:
    """A black image, or frames of one: a channel is lit to see which inputs of first-layer filters it reaches."""
    weight = next(layer.parameters())
    frames = (_FRAMES,) if isinstance(layer, nn.Conv3d) and len(size) == 2 else ()  # noqa: PLR2004 - rows and columns
    return torch.zeros(1, channels, *frames, *size, device=weight.device, dtype=weight.dtype)


@torch.no_grad()
def _given_to_filters(model: nn.Module, layer: nn.Module, image: Tensor) -> Tensor | None:
    """What first-layer filters are given for an image; None when the model does not come that far."""

    def stop(_: nn.Module, args: tuple[Any, ...]) -> NoReturn:
        raise _FiltersReached(args[0])

    try:
        with layer.register_forward_pre_hook(stop):
            model(image)
    except _FiltersReached as reached:
        return reached.given
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError):
        pass  # the library's way to say that the image has the wrong number of channels
    return None


def _unclear(layer: nn.Module, cause: str, hint: str) -> NotSupported:
    """The error where it is unclear which channel of the image an input of the filters is of."""
    return NotSupported(f"cannot tell which input of {layer} comes from which channel", cause=cause, hint=hint)


Policy = Literal["mean", "repeat", "zero", "random"]
ChannelMap = Mapping[int, "int | Sequence[int]"]


@dataclass(frozen=True)
class Plan:
    """What becomes of first-layer filters on each channel when the number of channels changes.

    Attributes:
        count: How many there will be.
        policy: How their filters are made, where no map says it.
        sources: New channel to the old ones it is the mean of.
    """

    count: int
    policy: Policy
    sources: Mapping[int, tuple[int, ...]] | None

    def silent(self, old: int) -> bool:
        """Whether there will be channels that nothing depends on, coming from ``old`` ones."""
        if self.sources is None:
            return self.policy == "zero" and self.count > old
        return len(self.sources) < self.count

    def rearranges(self, old: int) -> bool:
        """Whether every one of the ``old`` channels keeps its filters once, in whatever place."""
        if self.sources is None:
            return self.count == old
        return sorted(self.sources.values()) == [(one,) for one in range(old)] and self.count == old

    def filters(self, old: Tensor) -> Tensor:
        """Filters ``[out, old channels, ...]`` to filters ``[out, new channels, ...]``."""
        if self.sources is not None:
            return _mapped(old, self.count, self.sources)
        return _POLICIES[self.policy](old, self.count)

    def numbers(self, old: Sequence[float]) -> list[float]:
        """One number a channel, such as the mean to subtract, for the new channels."""
        if self.sources is None and self.policy == "repeat":
            return [old[i % len(old)] for i in range(self.count)]
        keeps = {i: (i,) for i in range(len(old))} if self.policy == "zero" else {}
        sources = keeps if self.sources is None else self.sources
        everything = range(len(old))
        chosen = [sources.get(i, everything) for i in range(self.count)]
        return [math.fsum(old[j] for j in group) / len(group) for group in chosen]

    def numbers_of(self, old: Tensor) -> Tensor:
        """The same for a tensor, along the axis that has one number a channel; any other axis is as long as 1."""
        count = old.numel()
        units = [[float(one == other) for one in range(count)] for other in range(count)]
        shares = torch.tensor([self.numbers(unit) for unit in units], device=old.device, dtype=old.dtype)
        shape = [self.count if side == count else side for side in old.shape]
        return (old.detach().flatten() @ shares).view(shape)

    def known(self, old: int) -> Collection[int]:
        """The new channels that come from some of the ``old`` ones, so that their numbers mean something."""
        if self.sources is not None:
            return tuple(self.sources)
        return {"random": (), "zero": range(old)}.get(self.policy, range(self.count))


def plan_channels(count: int, old: int, policy: Policy | None, sources: ChannelMap | None) -> Plan:
    """The plan for the filters on ``count`` channels in the place of ``old``.

    Raises:
        UsageError: The policy is not one, the map names a channel that does not exist, or both are given.
    """
    if policy is not None and policy not in get_args(Policy):
        raise UsageError(
            f"policy cannot be {policy!r}",
            expected=f"None or one of {', '.join(get_args(Policy))}",
            hint=did_you_mean(close_matches(str(policy), get_args(Policy)), "leave it out"),
        )
    if sources is None:
        return Plan(count, policy or ("mean" if count == 1 else "repeat"), None)
    if policy is not None:
        raise UsageError("policy and map both say what the new channels get", hint="give one of them")
    return Plan(count, "zero", _checked(sources, count, old))


def _checked(sources: ChannelMap, count: int, old: int) -> dict[int, tuple[int, ...]]:
    """A user's map from new channels of the filters to old ones, when all of them exist."""
    expected = f"new channels from 0 to {count - 1}, each with an old one from 0 to {old - 1} or with several"
    if not isinstance(sources, Mapping) or not sources:
        raise UsageError(f"map cannot be {sources!r}", expected=expected)
    groups = {new: tuple(from_) if isinstance(from_, Sequence) else (from_,) for new, from_ in sources.items()}
    for new, group in groups.items():
        if not (_index(new, count) and group and all(_index(one, old) for one in group)):
            raise UsageError(f"map cannot hold {new!r}: {sources[new]!r}", expected=expected)
    return groups


def _index(value: object, below: int) -> bool:
    """Whether a value is the number of one of the channels that filters have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def _mean(old: Tensor, count: int) -> Tensor:
    """New filters that are alike on all channels: the sum of the old ones, shared out evenly."""
    return (old.sum(dim=1, keepdim=True) / count).repeat_interleave(count, dim=1)


def _repeat(old: Tensor, count: int) -> Tensor:
    """New filters that repeat the channels of the old ones, with the norm that those had."""
    repeated = old.index_select(1, torch.arange(count, device=old.device) % old.shape[1])
    size = repeated.norm()
    return repeated.mul_(torch.where(size > 0, old.norm() / size, 1))  # filters on many channels are large


def _zero(old: Tensor, count: int) -> Tensor:
    """New filters that keep the old channels in their places, and are zero on those that are more."""
    return _mapped(old, count, {i: (i,) for i in range(min(count, old.shape[1]))})


def _random(old: Tensor, count: int) -> Tensor:
    """New filters drawn at random, as torch's own layers draw theirs."""
    fresh = old.new_empty(old.shape[0], count, *old.shape[2:])
    nn.init.kaiming_uniform_(fresh.view(old.shape[0], -1), a=math.sqrt(5))  # what torch's own layers call
    return fresh


def _mapped(old: Tensor, count: int, sources: Mapping[int, tuple[int, ...]]) -> Tensor:
    """New filters from those old channels that a map names, or their mean; zero where it names none."""
    new = old.new_zeros(old.shape[0], count, *old.shape[2:])
    for channel, group in sources.items():
        new[:, channel] = old[:, list(group)].mean(dim=1) if len(group) > 1 else old[:, group[0]]
    return new


_POLICIES: dict[Policy, Callable[[Tensor, int], Tensor]] = {
    "mean": _mean,
    "repeat": _repeat,
    "zero": _zero,
    "random": _random,
}


def check_response(layer: nn.Module, plan: Plan, channels: int) -> None:
    """Refuse to change filters that a layer computes from its weight where they cannot respond as before.

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
    x = torch.randn(1, input_channels_of(layer), *_filter_reach(layer), generator=generator, device="cpu").to(weight)
    once, twice = (functional_call(layer, {**state, "weight": weight * factor}, (x,)) for factor in (1, 2))
    return not torch.allclose(twice, 2 * once, rtol=1e-2, atol=1e-4)


@torch.enable_grad()
def effective_filters(layer: nn.Module) -> Tensor:
    """The filters that a layer applies, ``[out, in, ...]``: the derivative of its response in the middle."""
    sides = [3 * side for side in _filter_reach(layer)]
    weight = cast("Tensor", layer.weight)
    x = torch.zeros(1, input_channels_of(layer), *sides, device=weight.device, dtype=weight.dtype, requires_grad=True)
    response = layer(x)[0].flatten(1)
    middle = response[:, _middle_of_response(layer(x))]
    rows = [torch.autograd.grad(each, x, retain_graph=True)[0][0] for each in middle]
    result = torch.stack(rows).detach()
    return result[(slice(None), slice(None), *_windows_of_filters(layer, result))]


def dense_filters(layer: nn.Module) -> Tensor:
    """The filters of a first layer as if it had one group: zero between channels of different groups."""
    weight = cast("Tensor", layer.weight)
    groups = cast("int", getattr(layer, "groups", 1))
    if groups == 1:
        return weight.detach()
    per_group, width = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], groups * width, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        dense[rows, group * width : (group + 1) * width] = weight[rows]
    return dense


def fit_gain(layer: nn.Module, target: Tensor) -> None:
    """Set the gain of a layer so that the filters it applies are as large as those of ``target``, for each output."""
    gain = cast("Tensor", layer.gain)
    now = effective_filters(layer).flatten(1).norm(dim=1)
    size = target.to(now).flatten(1).norm(dim=1)
    with torch.no_grad():
        gain.mul_(torch.where(now > 0, size / now, 1).view_as(gain))


def _middle_of_response(response: Tensor) -> int:
    """The index, among all places at which the response of a layer is measured, of the one in the middle."""
    index = 0
    for side in response.shape[2:]:
        index = index * side + side // 2
    return index


def _windows_of_filters(layer: nn.Module, found: Tensor) -> list[slice]:
    """For each axis of the image, the position of the window of the filters whose response is measured."""
    slices = []
    steps = cast("tuple[int, ...]", layer.dilation)
    for axis, side in enumerate(cast("Tensor", layer.weight).shape[2:], start=2):
        others = [each for each in range(found.dim()) if each != axis]
        places = found.abs().amax(dim=others).nonzero().flatten()
        first = int(places[0]) if len(places) else 0
        slices.append(slice(first, first + (side - 1) * steps[axis - 2] + 1, steps[axis - 2]))
    return slices


def _filter_reach(layer: nn.Module) -> list[int]:
    """Pixels on each side that first-layer filters look at, dilation included."""
    sides = cast("Tensor", layer.weight).shape[2:]
    dilation = getattr(layer, "dilation", 1)
    return [side * (dilation[axis] if isinstance(dilation, tuple) else 1) for axis, side in enumerate(sides)]


def _check_can_be_silent(layer: nn.Module, hint: str) -> None:
    """Refuse filters that respond to a channel on which their weights are zero.

    Raises:
        NotSupported: The layer hears a channel whose weights are zero.
    """
    # ones, because the caller who is about to load values may not have drawn any
    state = {name: torch.ones_like(tensor) for name, tensor in layer.named_parameters()}
    weight = state["weight"].detach()
    if weight.is_meta:
        return
    weight[:, 0] = 0
    quiet = weight.new_zeros(1, input_channels_of(layer), *_filter_reach(layer))
    loud = quiet.clone()
    loud[:, 0] = 1
    answers = [functional_call(layer, {**state, "weight": weight}, (x,)) for x in (quiet, loud)]
    if not torch.equal(*answers):
        raise NotSupported(
            f"no channel can start silent in {layer}",
            cause="it computes its filters from its weight, so that a weight of zero is not a filter of zero",
            hint=hint,
        )
