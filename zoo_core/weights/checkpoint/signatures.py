"""What the state dicts of a family's models look like, by hashes of names and shapes: to tell a file's architecture.

A signature is small: how many tensors there are, the smallest hashes of some of them, and the sum of the hashes of all
but heads and first layers, which fine-tuning changes. A plugin ships those of its family, made on the meta device by
``zoo plugin signatures``. Nothing here needs torch.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Shapes = Mapping[str, tuple[int, ...]]

_SKETCH = 16
"""Hashes that are kept of each model."""
_MASK = (1 << 64) - 1
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Signature:
    """What the state dict of a model looks like.

    Attributes:
        name: ``family/name``.
        count: How many tensors it has, counters of batch norm apart.
        body: The sum of the hashes of all tensors outside ``apart``.
        sketch: The smallest hashes of those.
        apart: Paths of heads and first layers.
    """

    name: str
    count: int
    body: int
    sketch: tuple[int, ...]
    apart: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A model that a file looks like.

    Attributes:
        name: ``family/name``.
        score: 1.0 where all names and shapes outside heads and first layers are the same, less where fewer are.
    """

    name: str
    score: float


def sign(name: str, shapes: Shapes, apart: Iterable[str] = ()) -> Signature:
    """The signature of a state dict.

    Args:
        name: ``family/name``.
        shapes: Tensor name to shape.
        apart: Paths of heads and first layers.

    Example:
        >>> sign("acme/net", {"conv.weight": (8, 3, 3, 3), "fc.weight": (9, 8)}, apart=["fc"]).count
        2
    """
    kept = tuple(sorted({*apart}))
    hashes = _hashes(shapes)
    body = [value for each, value in hashes.items() if not _is_apart(each, kept)]
    sketch = tuple(sorted({value >> 32 for value in body})[:_SKETCH])
    return Signature(name, len(hashes), sum(body) & _MASK, sketch, kept)


def _hashes(shapes: Shapes) -> dict[str, int]:
    return {
        name: int.from_bytes(blake2b(f"{name} {tuple(shape)}".encode(errors="replace"), digest_size=8).digest(), "big")
        for name, shape in shapes.items()
        if not name.endswith(_COUNTER)
    }


def _is_apart(name: str, apart: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in apart)


def match(shapes: Shapes, known: Iterable[Signature], *, most: int = 5) -> list[Match]:
    """The models that a state dict looks like, the best first; those that are alike in all in the order they came in.

    Args:
        shapes: Tensor name to shape, without prefixes.
        known: Signatures.
        most: How many at most, but for those that are as good as the best.
    """
    hashes = _hashes(shapes)
    top = {value >> 32 for value in hashes.values()}
    scored = []
    for each in known:
        near = sum(value in top for value in each.sketch) / max(len(each.sketch), 1)
        if near:
            sizes = sorted((each.count, len(hashes)))
            scored.append((near * sizes[0] / max(sizes[1], 1), each))
    scored.sort(key=lambda item: -item[0])
    found = [Match(each.name, round(_exact(each, hashes, score), 4)) for score, each in scored[: 40 + most]]
    found.sort(key=lambda item: -item.score)
    return [each for place, each in enumerate(found) if place < most or each.score == found[0].score]


def _exact(each: Signature, hashes: Mapping[str, int], score: float) -> float:
    """1.0 where everything that should be the same is; otherwise less, however near it looks."""
    body = sum(value for name, value in hashes.items() if not _is_apart(name, each.apart)) & _MASK
    if body != each.body:
        return min(score, 0.99)
    # between models that differ in the head alone, the one that has as many tensors
    return 1.0 if len(hashes) == each.count else 0.995


def read_signatures(where: str) -> Iterator[Signature]:
    """The signatures that a plugin ships.

    Args:
        where: ``"package:file"``.
    """
    package, _, name = where.partition(":")
    content = json.loads(gzip.decompress(files(package).joinpath(name).read_bytes()))
    for model, count, body, sketch, apart in content:
        yield Signature(model, count, int(body, 16), tuple(int(value, 16) for value in sketch.split()), tuple(apart))


def write_signatures(signatures: Iterable[Signature]) -> bytes:
    """The bytes of the file that :func:`read_signatures` reads; the same for the same signatures."""
    rows = [
        [each.name, each.count, f"{each.body:x}", " ".join(f"{value:x}" for value in each.sketch), list(each.apart)]
        for each in signatures
    ]
    return gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), mtime=0)
