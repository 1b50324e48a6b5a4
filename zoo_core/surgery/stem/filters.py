"""What becomes of first-layer filters when the number of channels changes: the policies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from zoo_core.errors import UsageError
from zoo_core.text import close_matches, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

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
