"""Which tensors of a checkpoint are those of a model: which state dict, under which prefix, averaged or not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.weights.checkpoint.candidates import Candidate, candidates, is_averaged, is_teacher, module_at
from zoo_core.weights.checkpoint.names import (
    BUFFERS,
    PARALLEL,
    common_prefix,
    fits,
    named_children,
    under,
    without_parallel,
)
from zoo_core.weights.checkpoint.unsupported import no_candidate, refuse_odd_tensors, unsupported_kind

if TYPE_CHECKING:
    from zoo_core.weights.formats.plain_pickle import Foreign

Shapes = Mapping[str, tuple[int, ...]]

_MOST = 8
"""Prefixes of one state dict that are looked at: names that end alike by chance make some."""


@dataclass(frozen=True)
class Choice:
    """What was chosen from a checkpoint for a model: tensors, under the names that they have there.

    Attributes:
        state: Name to tensor, without the prefix.
        keys: The keys in the file that lead to them.
        prefix: What was before each name.
        averaged: Whether they are averages over training.
        fitting: How many have a name and a shape of the model.
        filled: Names of buffers that the averages lack, taken from the weights that were averaged.
        rivals: What else in the file fits as well and has other numbers, in words that ``prefix=`` takes.
        left: Names of tensors in the same state dict that are not under the prefix, and belong to no other copy.
        beside: All in the same state dict that is not under the prefix, by name.
        module: The whole module that these are of, where one was pickled.
        numbered: Whether the file numbers the children of the model, as ``nn.Sequential(*model.children())`` does.
    """

    state: Mapping[str, Any]
    keys: tuple[str, ...] = ()
    prefix: str = ""
    averaged: bool = False
    fitting: int = 0
    filled: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    module: Foreign | None = None
    numbered: bool = False

    @property
    def label(self) -> str:
        """All that is before a name, the keys in the file included, as ``prefix=`` takes it."""
        return ("".join(f"{key}." for key in self.keys) + self.prefix).rstrip(".")

    @property
    def words(self) -> str:
        """What was taken, in words; ``""`` where there was nothing to choose."""
        parts = []
        if self.averaged:
            parts.append("averaged weights")
        if self.keys:
            parts.append(f"from {'.'.join(self.keys)!r}")
        if self.prefix:
            parts.append(f"without the prefix {self.prefix!r}")
        if self.numbered:
            parts.append("children by their numbers")
        if self.filled:
            parts.append(f"{len(self.filled)} buffers from the weights that were averaged")
        return ", ".join(parts)


@dataclass(frozen=True)
class _Option:
    """One way to choose tensors of a checkpoint for a model: a state dict and a prefix, and how well they fit."""

    candidate: Candidate
    tensors: Mapping[str, Any]
    prefix: str
    fitting: int
    parameters: int
    extra: int
    """Names that are under the prefix and not in the model."""
    named: int
    """Names of the model, whatever the shapes."""
    numbered: bool = False

    @property
    def averaged(self) -> bool:
        return self.candidate.averaged or is_averaged(self.prefix)

    @property
    def label(self) -> str:
        """All that is before a name, the keys in the file included."""
        return "".join(f"{key}." for key in self.candidate.keys) + self.prefix


def choose(
    found: Sequence[Candidate],
    own: Shapes,
    *,
    ema: bool | None = None,
    prefix: str | None = None,
    part: bool = False,
    children: Sequence[str] = (),
) -> Choice:
    """Choose the tensors of a checkpoint that fit a model best.

    Averaged weights are taken where they have a tensor for every parameter that any others have one for.

    Args:
        found: The state dicts in the file, at least one.
        own: Name to shape of the model's tensors.
        ema: True takes averaged weights only, False none.
        prefix: Take what is under this prefix of names, or under these keys of the file.
        part: The rest of the file may be of something else: take what fits most, however much else is beside it.
        children: Names of the model's children in order, which ``nn.Sequential(*model.children())`` numbers.

    Raises:
        UsageError: Nothing is left after ``ema`` and ``prefix``; the message says what there is.

    Example:
        >>> import torch
        >>> raw, ema = {"fc.bias": torch.zeros(2)}, {"fc.bias": torch.ones(2)}
        >>> chosen = choose([Candidate(("model",), raw), Candidate(("ema",), ema, averaged=True)], {"fc.bias": (2,)})
        >>> chosen.words, chosen.state
        ("averaged weights, from 'ema'", {'fc.bias': tensor([1., 1.])})
    """
    options = [option for candidate in found for option in _options(candidate, own, children)]
    # where no name is one of the model, whole state dicts
    usable = options or [_option(candidate, candidate.tensors, "", own) for candidate in found]
    if prefix is not None:
        usable = _under_prefix(usable, found, own, prefix)
    if ema is not None:
        usable = _by_ema(usable, averaged=ema)
    merit = partial(_merit, part=part)
    best = max(usable, key=merit)
    most = max(best.parameters, 1)
    averages = [each for each in usable if each.averaged and each.parameters >= most and each.extra <= best.extra]
    chosen = max(averages, key=merit, default=best)
    return _choice(chosen, best, options, own)


def _options(candidate: Candidate, own: Shapes, children: Sequence[str]) -> Iterator[_Option]:
    """The choices that a state dict offers for a model: one for each prefix under which names fit."""
    plain = candidate.tensors
    variants = [plain, *([short] if (short := without_parallel(plain)) != plain else [])]
    most = 0
    for tensors in variants:
        every = fits(tensors, own)[:_MOST]
        most = max([most, *(fit.count for fit in every)])
        for fit in every:
            yield _option(candidate, tensors, fit.prefix, own)
    renumbered = named_children(plain, own, children) if 2 * most < len(own) else None
    if renumbered:
        option = _option(candidate, renumbered[1], renumbered[0], own)
        if option.named > most:  # a layer with a number in a block is no child of the model
            yield replace(option, numbered=True)


def _option(candidate: Candidate, tensors: Mapping[str, Any], prefix: str, own: Shapes) -> _Option:
    """The choice of what a state dict has under a prefix, with how many names and shapes of the model it fits."""
    state = under(tensors, prefix)
    named = [name for name in state if name in own]
    fitting = [name for name in named if tuple(getattr(state[name], "shape", ())) == own[name]]
    parameters = sum(not name.endswith(BUFFERS) for name in fitting)
    return _Option(candidate, tensors, prefix, len(fitting), parameters, len(state) - len(named), len(named))


def _merit(option: _Option, *, part: bool) -> tuple[int, ...]:
    """What makes a choice better than another: shapes that fit, names that are not too many, then names alone.

    Where only a part must fit, further names tell equals apart, no more.
    """
    if part:
        return option.fitting, option.named, -option.extra
    return option.fitting - option.extra, option.named


def _under_prefix(usable: list[_Option], found: Sequence[Candidate], own: Shapes, prefix: str) -> list[_Option]:
    """The choices under the prefix that the caller names, in the names or among the keys of the file."""
    requested = f"{prefix.rstrip('.')}." if prefix else ""
    named = [option for option in usable if requested in (option.prefix, option.label)]
    if named:
        return named
    forced = [_option(each, each.tensors, requested, own) for each in found if under(each.tensors, requested)]
    if not forced:
        raise UsageError(
            f"nothing in the file is under the prefix {prefix!r}",
            expected=f"one of {', '.join(repr(each) for each in _prefixes(usable))}",
            hint="leave prefix out to have it found",
        )
    return forced


def _prefixes(usable: list[_Option]) -> list[str]:
    """The prefixes among which the caller can choose."""
    return sorted({option.label or common_prefix(option.tensors) for option in usable})


def _by_ema(usable: list[_Option], *, averaged: bool) -> list[_Option]:
    """The choices that are averaged weights, or those that are not, as the caller requests with ``ema=``."""
    kept = [option for option in usable if option.averaged == averaged]
    if not kept:
        raise UsageError(
            f"the file has {'no averaged weights' if averaged else 'averaged weights only'}",
            got=f"tensors under {', '.join(repr(each) for each in _prefixes(usable))}",
            hint=f"leave ema={averaged} out",
        )
    return kept


def _rivals(option: _Option, chosen: _Option) -> bool:
    """Whether nothing but the place in the file says why one state dict was chosen and not the other."""
    is_copy = option.tensors is not option.candidate.tensors  # the same without parts of names
    if is_copy or option.fitting < chosen.fitting:
        return False
    if option.averaged != chosen.averaged and not (chosen.averaged and is_teacher(chosen.label)):
        return False
    mine, theirs = (under(each.tensors, each.prefix) for each in (chosen, option))
    return any(name in mine and not _same(mine[name], tensor) for name, tensor in theirs.items())


def _same(one: object, other: object) -> bool:
    """Whether two tensors among which to choose have the same numbers."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or unsupported_kind(one) or unsupported_kind(other):
        return one is other
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _choice(chosen: _Option, best: _Option, options: list[_Option], own: Shapes) -> Choice:
    """The choice that was made, with buffers that averages lack, and rivals that fit as well."""
    state = under(chosen.tensors, chosen.prefix)
    filled: tuple[str, ...] = ()
    if chosen is not best and chosen.averaged:
        raw = under(best.tensors, best.prefix)
        layers = {name.rpartition(".")[0] for name in state}  # those of a head are not in the model yet
        missing = [name for name in raw if name.endswith(BUFFERS) and name not in state]
        filled = tuple(name for name in missing if name in own or name.rpartition(".")[0] in layers)
        state.update({name: raw[name] for name in filled})
    others = [option for option in options if option.fitting > chosen.fitting / 2 and option is not chosen]
    copies = [option.prefix for option in others if option.candidate is chosen.candidate]
    is_of_teacher = chosen.averaged and is_teacher(chosen.label)
    students = [option for option in others if not option.averaged and option.fitting >= chosen.fitting]
    left = [name for name in chosen.tensors if not name.startswith((chosen.prefix, *copies))]
    return Choice(
        state=state,
        keys=chosen.candidate.keys,
        prefix=chosen.prefix,
        averaged=chosen.averaged and not (is_of_teacher and not students),
        fitting=chosen.fitting,
        filled=filled,
        rivals=tuple(dict.fromkeys(option.label.rstrip(".") for option in others if _rivals(option, chosen))),
        left=tuple(left),
        beside={name: tensor for name, tensor in chosen.tensors.items() if not name.startswith(chosen.prefix)},
        module=module_at(chosen.candidate.module, chosen.prefix) if chosen.candidate.module else None,
        numbered=chosen.numbered,
    )


def likeliest_candidate(content: object, source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Choose one candidate of a checkpoint where no model is known: the averaged one, or the likeliest.

    Raises:
        Unreadable: There is none, or a tensor in it is none of plain numbers.

    Example:
        >>> import torch
        >>> likeliest_candidate({"model": {"module.fc.bias": torch.zeros(2)}, "epoch": 3}, "the checkpoint")
        {'fc.bias': tensor([0., 0.])}
    """
    result = candidates(content)
    if not result:
        raise no_candidate(content, source)
    best = next((each for each in result if each.averaged), result[0])
    refuse_odd_tensors(best.tensors, source)
    state = dict(best.tensors)
    prefix = common_prefix(state)
    return under(state, f"{PARALLEL}.") if prefix.startswith(f"{PARALLEL}.") else state
