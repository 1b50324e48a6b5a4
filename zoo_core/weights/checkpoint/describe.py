"""What a checkpoint is, in words and numbers, without building anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from zoo_core.registry.zoo import current_zoo
from zoo_core.weights.checkpoint.ends import Ends
from zoo_core.weights.checkpoint.names import common_prefix, under, without_parallel
from zoo_core.weights.checkpoint.odd import kind_of
from zoo_core.weights.checkpoint.signatures import Match, Signature, match, read_signatures
from zoo_core.weights.formats.plain_pickle import parts_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from zoo_core.weights.checkpoint.candidates import Candidate
    from zoo_core.weights.checkpoint.open import Checkpoint

_MOST = 8
"""Models that are named."""
_NAMES = 1000
_LONGEST_NAME = 100
_DEEPEST = 4


@dataclass(frozen=True)
class StateDict:
    """One state dict in a checkpoint.

    Attributes:
        keys: The keys that lead to it.
        prefix: What is before every name, or before those of the model that it fits.
        averaged: Whether it holds averaged weights.
        tensors: How many tensors there are.
        parameters: How many numbers they have.
        dtypes: Of those, with how many tensors have each.
        classes: What the last layer has for outputs, as far as names and shapes tell.
        channels: What the first convolution takes, as far as names and shapes tell.
        image_size: The side of the images that position tables are for, where there are some.
        keypoints: How many a detector finds, where it does.
        head: The layers of the head of the model that it looks like: path and sizes.
        odd: Names of tensors that are none of plain numbers, and what they are.
        matches: Models that it looks like, the best first.
    """

    keys: tuple[str, ...]
    prefix: str
    averaged: bool
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    classes: int | None
    channels: int | None
    image_size: int | None
    keypoints: int | None
    head: str | None
    odd: dict[str, str]
    matches: tuple[Match, ...]


def describe(checkpoint: Checkpoint) -> list[StateDict]:
    """What each state dict in a checkpoint is, averaged ones first.

    Args:
        checkpoint: It is open.

    Example:
        >>> import tempfile, torch
        >>> from zoo_core.weights.checkpoint.open import open_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     torch.save({"model": {"module.a.bias": torch.zeros(2), "module.b.bias": torch.zeros(2)}}, file.name)
        ...     found = describe(open_checkpoint(file.name))
        >>> found[0].keys, found[0].prefix
        (('model',), 'module.')
    """
    known = {each.name: each for each in all_signatures()}
    said = names_in(checkpoint.content)
    every = sorted(checkpoint.candidates, key=lambda each: not each.averaged)
    return [_described(each, known, said) for each in every]


def all_signatures() -> Iterator[Signature]:
    """Those of every family that ships some, in the order in which names are resolved."""
    zoo = current_zoo()
    for name in zoo.order:
        where = zoo.member(name).family.signatures
        if where:
            yield from read_signatures(where)


def _described(candidate: Candidate, known: Mapping[str, Signature], said: Collection[str]) -> StateDict:
    tensors = candidate.tensors
    prefix, matches = _best(tensors, known.values())
    if said:  # of models whose files are alike, the one that the file names
        matches.sort(key=lambda each: (-each.score, each.name.partition("/")[2] not in said))
    state = under(tensors, prefix)
    plain = {name: tensor for name, tensor in state.items() if not kind_of(tensor)}
    apart = known[matches[0].name].apart if matches else ()
    ends = Ends.of({name: tuple(tensor.shape) for name, tensor in plain.items()}, apart)
    return StateDict(
        keys=candidate.keys,
        prefix=prefix,
        averaged=candidate.averaged,
        tensors=len(state),
        parameters=sum(tensor.numel() for tensor in plain.values()),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in plain.values())),
        classes=ends.classes,
        channels=ends.channels,
        image_size=ends.image_size,
        keypoints=ends.keypoints,
        head=ends.head,
        odd={name: kind for name, tensor in state.items() if (kind := kind_of(tensor))},
        matches=tuple(matches[:_MOST]),
    )


def names_in(content: object) -> set[str]:
    """Short strings in the notes of a checkpoint, such as the architecture that a training script was started with.

    Example:
        >>> sorted(names_in({"arch": "resnet50", "epoch": 3, "args": {"model": "resnet18"}}))
        ['resnet18', 'resnet50']
    """
    result: set[str] = set()
    rest = [(content, 0)]
    while rest and len(result) < _NAMES:
        value, depth = rest.pop()
        if isinstance(value, str) and len(value) <= _LONGEST_NAME:
            result.add(value.rpartition("/")[2])
        elif depth < _DEEPEST:
            parts = value.values() if isinstance(value, Mapping) else parts_of(value)
            rest += [(each, depth + 1) for each in islice(parts, _NAMES)]
    return result


def _best(tensors: Mapping[str, Any], known: Collection[Signature]) -> tuple[str, list[Match]]:
    """The prefix without which a state dict looks most like a model, and what it looks like then."""
    best: tuple[str, list[Match]] = (common_prefix(tensors), [])
    for prefix in _prefixes(tensors):
        for state in (under(tensors, prefix), without_parallel(under(tensors, prefix))):
            result = match({name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}, known)
            if result and (not best[1] or result[0].score > best[1][0].score):
                best = (prefix, result)
    return best


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    """What may be before the names of a model: nothing, what all names begin with, and what many do."""
    whole = common_prefix(names).split(".")[:-1]
    result = ["".join(f"{part}." for part in whole[:depth]) for depth in range(len(whole) + 1)]
    base = result[-1]
    first = Counter(name.removeprefix(base).partition(".")[0] for name in names)
    frequent = [part for part, count in first.most_common(3) if count > len(names) / 4]
    second = Counter(".".join(name.removeprefix(base).split(".")[:2]) for name in names)
    frequent += [part for part, count in second.most_common(2) if count > len(names) / 4]
    return [*result, *(f"{base}{part}." for part in frequent)]
