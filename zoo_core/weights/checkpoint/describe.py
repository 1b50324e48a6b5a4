"""What a checkpoint is and what it is for, from names, shapes and numbers, without building anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from math import isqrt
from typing import TYPE_CHECKING, Any

from zoo_core.weights.checkpoint.names import common_prefix, under, without_parallel
from zoo_core.weights.checkpoint.signatures import Match, Signature, all_signatures, match
from zoo_core.weights.checkpoint.unsupported import unsupported_kind
from zoo_core.weights.formats.plain_pickle import parts_of

if TYPE_CHECKING:
    from zoo_core.weights.checkpoint.candidates import Candidate
    from zoo_core.weights.checkpoint.read import Checkpoint

Shapes = Mapping[str, tuple[int, ...]]

_MATRIX, _KERNEL = 2, 4
_EXTRA_TOKENS = (1, 0, 2, 5, 4, 8)
"""How many tokens of a position table are not of the image: class, distillation and register tokens."""
_TABLES = ("pos_embed", "pos_embedding", "position_embedding", "position_embeddings", "absolute_pos_embed")
_SHOWN = 4


@dataclass(frozen=True)
class Ends:
    """Input and output of the model in a checkpoint, described from names and shapes; None where they do not tell.

    Attributes:
        classes: Outputs of the head.
        channels: Of the images.
        image_size: The side of the images that position tables are for.
        keypoints: How many a detector finds.
        head: Path and sizes of the layers of the head.
    """

    classes: int | None
    channels: int | None
    image_size: int | None
    keypoints: int | None
    head: str | None


def ends_of(shapes: Shapes, apart: Collection[str] = ()) -> Ends:
    """Describe the ends of a state dict.

    Args:
        shapes: Tensor name to shape, in the order of the file.
        apart: Paths of heads, and names of first layers, of the model that it looks like.

    Example:
        >>> shapes = {"stem.weight": (8, 3, 3, 3), "fc.0.weight": (16, 8), "fc.2.weight": (9, 16)}
        >>> ends_of(shapes, ["fc"])
        Ends(classes=9, channels=3, image_size=None, keypoints=None, head='fc: 8 to 16 to 9')
    """
    weights = {name: shape for name, shape in shapes.items() if name.endswith("weight") and len(shape) >= _MATRIX}
    first = next((shape for shape in weights.values() if len(shape) >= _KERNEL), None)
    heads = [
        (path, [shape for name, shape in weights.items() if name.startswith(f"{path}.")])
        for path in sorted(apart)
        if path not in shapes
    ]
    path, layers = next(((path, each) for path, each in heads if each), ("", []))
    last = layers or [*weights.values()]
    kernel = next((shape for name, shape in shapes.items() if "keypoint" in name and len(shape) == _KERNEL), None)
    scores = next((s for name, s in shapes.items() if "kps_score" in name and len(s) == _KERNEL), None)
    return Ends(
        classes=last[-1][0] if last else None,
        channels=first[1] if first else None,
        image_size=_image_size(shapes, first),
        keypoints=scores[1] if scores and kernel else None,
        head=_describe_head(path, layers) if layers else None,
    )


def _describe_head(path: str, layers: list[tuple[int, ...]]) -> str:
    """Describe the head of a state dict in one line: as a chain of layers, or by how many layers it has."""
    is_chain = all(one[0] == other[1] for one, other in pairwise(layers))
    if is_chain and len(layers) <= _SHOWN:
        return f"{path}: {' to '.join(map(str, (layers[0][1], *(shape[0] for shape in layers))))}"
    outputs = ", ".join(str(shape[0]) for shape in layers[:_SHOWN])
    return f"{path}: {len(layers)} layers, of {outputs}{', ...' if len(layers) > _SHOWN else ''} outputs"


def _image_size(shapes: Shapes, first: tuple[int, ...] | None) -> int | None:
    """The image size that a checkpoint is for, from a table of positions and the patches of its first layer."""
    table = next((shape for name, shape in shapes.items() if name.rpartition(".")[2] in _TABLES), None)
    if table is None or first is None or first[-1] != first[-2]:
        return None
    patch = first[-1]
    if len(table) == _KERNEL and first[0] in table:
        sides = [side for side in table[1:] if side != first[0]]
        return sides[0] * patch if len({*sides}) == 1 else None
    count = table[-2] if len(table) > 1 and table[-1] == first[0] else 0
    counts = (count - extra for extra in _EXTRA_TOKENS)
    side = next((isqrt(each) for each in counts if each > 0 and isqrt(each) ** 2 == each), None)
    return side * patch if side else None


_MOST = 8
"""Models that are named."""
_NAMES = 1000
_LONGEST_NAME = 100
_DEEPEST = 4


@dataclass(frozen=True)
class StateDict(Ends):
    """The description of one state dict in a checkpoint, its ends among it.

    Attributes:
        keys: The keys that lead to it.
        prefix: What is before every name, or before those of the model that it fits.
        averaged: Whether it holds averaged weights.
        tensors: How many tensors there are.
        parameters: How many numbers they have.
        dtypes: Of those, with how many tensors have each.
        odd: Names of tensors that are none of plain numbers, and what they are.
        matches: Models that it looks like, the best first.
    """

    keys: tuple[str, ...]
    prefix: str
    averaged: bool
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    odd: dict[str, str]
    matches: tuple[Match, ...]


def describe(checkpoint: Checkpoint) -> list[StateDict]:
    """Describe each state dict in a checkpoint, averaged ones first.

    Example:
        >>> import tempfile, torch
        >>> from zoo_core.weights.checkpoint.read import open_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     torch.save({"model": {"module.a.bias": torch.zeros(2), "module.b.bias": torch.zeros(2)}}, file.name)
        ...     found = describe(open_checkpoint(file.name))
        >>> found[0].keys, found[0].prefix
        (('model',), 'module.')
    """
    known = {each.name: each for each in all_signatures()}
    said = _names_in(checkpoint.content)
    every = sorted(checkpoint.candidates, key=lambda each: not each.averaged)
    return [_described(each, known, said) for each in every]


def _described(candidate: Candidate, known: Mapping[str, Signature], said: Collection[str]) -> StateDict:
    """The description of one state dict: numbers, sizes, and the models that it looks like."""
    tensors = candidate.tensors
    prefix, matches = _most_alike(tensors, known.values())
    if said:  # of models whose files are alike, the one that the file names
        matches.sort(key=lambda each: (-each.score, each.name.partition("/")[2] not in said))
    state = under(tensors, prefix)
    plain = {name: tensor for name, tensor in state.items() if not unsupported_kind(tensor)}
    apart = known[matches[0].name].apart if matches else ()
    ends = ends_of({name: tuple(tensor.shape) for name, tensor in plain.items()}, apart)
    return StateDict(
        keys=candidate.keys,
        prefix=prefix,
        averaged=candidate.averaged,
        tensors=len(state),
        parameters=sum(tensor.numel() for tensor in plain.values()),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in plain.values())),
        **vars(ends),
        odd={name: kind for name, tensor in state.items() if (kind := unsupported_kind(tensor))},
        matches=tuple(matches[:_MOST]),
    )


def _names_in(content: object) -> set[str]:
    """Short strings in the notes of a checkpoint, such as the architecture that a training script was started with.

    Example:
        >>> sorted(_names_in({"arch": "resnet50", "epoch": 3, "args": {"model": "resnet18"}}))
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


def _most_alike(tensors: Mapping[str, Any], known: Collection[Signature]) -> tuple[str, list[Match]]:
    """What a checkpoint looks most like, to describe it: the prefix without which it does so, and the known models."""
    best: tuple[str, list[Match]] = (common_prefix(tensors), [])
    for prefix in _prefixes(tensors):
        for state in (under(tensors, prefix), without_parallel(under(tensors, prefix))):
            result = match({name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}, known)
            if result and (not best[1] or result[0].score > best[1][0].score):
                best = (prefix, result)
    return best


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    """Prefixes to leave out in turn to describe what a checkpoint is: none, what all names begin with, what many do."""
    whole = common_prefix(names).split(".")[:-1]
    result = ["".join(f"{part}." for part in whole[:depth]) for depth in range(len(whole) + 1)]
    base = result[-1]
    first = Counter(name.removeprefix(base).partition(".")[0] for name in names)
    frequent = [part for part, count in first.most_common(3) if count > len(names) / 4]
    second = Counter(".".join(name.removeprefix(base).split(".")[:2]) for name in names)
    frequent += [part for part, count in second.most_common(2) if count > len(names) / 4]
    return [*result, *(f"{base}{part}." for part in frequent)]
