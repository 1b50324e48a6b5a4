"""What the state dicts of a family's models look like, by hashes of names and shapes: to tell a file's architecture.

A signature is small: how many tensors there are, the smallest hashes of some of them, and the sum of the hashes of all
but what fine-tuning changes: heads, and the channels of first layers. A plugin ships those of its family, made on the
meta device by ``zoo plugin signatures``. Nothing here needs torch.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files

from zoo_core.registry.zoo import current_zoo

Shapes = Mapping[str, tuple[int, ...]]

_SKETCH = 16
"""Hashes that are kept of each model."""
_MASK = (1 << 64) - 1
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Signature:
    """The signature of a model: what its state dict looks like, by hashes of names and shapes.

    Attributes:
        name: ``family/name``.
        count: How many tensors it has, counters of batch norm apart.
        body: The sum of the hashes of all tensors outside ``apart``, and of first layers for any channels.
        whole: The sum of the hashes of all tensors.
        sketch: The smallest hashes of those outside ``apart``.
        apart: Paths of heads and first layers.
    """

    name: str
    count: int
    body: int
    whole: int
    sketch: tuple[int, ...]
    apart: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A known model whose signature a file matches.

    Attributes:
        name: ``family/name``.
        score: 1.0 where all names and shapes outside heads and first layers are the same, less where fewer are.
    """

    name: str
    score: float


def sign(name: str, shapes: Shapes, apart: Iterable[str] = ()) -> Signature:
    """The signature of a state dict, by hashes of its names and shapes.

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
    outside = [value for each, value in hashes.items() if not _is_apart(each, kept)]
    sketch = tuple(sorted({value >> 32 for value in outside})[:_SKETCH])
    return Signature(name, len(hashes), _body(shapes, hashes, kept), sum(hashes.values()) & _MASK, sketch, kept)


def _hashes(shapes: Shapes) -> dict[str, int]:
    """The hash for a signature of each tensor, counters of batch norm apart."""
    return {name: _hash(name, tuple(shape)) for name, shape in shapes.items() if not name.endswith(_COUNTER)}


def _hash(name: str, shape: tuple[int, ...]) -> int:
    """The hash, for a signature, of the name and shape of a tensor."""
    return int.from_bytes(blake2b(f"{name} {shape}".encode(errors="replace"), digest_size=8).digest(), "big")


def _body(shapes: Shapes, hashes: Mapping[str, int], apart: tuple[str, ...]) -> int:
    """The sum of the hashes of all that fine-tuning does not change, by which signatures are the same."""
    outside = sum(value for name, value in hashes.items() if not _is_apart(name, apart))
    first = [(name, tuple(shapes[name])) for name in apart if name in hashes]
    # the patches of a first layer tell models apart that are the same in all else
    kernels = sum(_hash(name, (shape[0], *shape[2:])) for name, shape in first if len(shape) > 2)  # noqa: PLR2004 - out, in and a kernel
    return (outside + kernels) & _MASK


def _is_apart(name: str, apart: tuple[str, ...]) -> bool:
    """Whether a tensor is of a head or a first layer, which a signature leaves apart."""
    return any(name == path or name.startswith(f"{path}.") for path in apart)


def match(shapes: Shapes, known: Iterable[Signature], *, most: int = 5) -> list[Match]:
    """The models whose signatures a state dict matches, best first; of equals, those with the same heads and stems.

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
    near_ones = [(round(_exact(each, shapes, hashes, score), 4), each) for score, each in scored[: 40 + most]]
    whole = sum(hashes.values()) & _MASK
    near_ones.sort(key=lambda item: (-item[0], item[1].whole != whole))
    result = [Match(each.name, score) for score, each in near_ones]
    return [each for place, each in enumerate(result) if place < most or each.score == result[0].score]


def _exact(each: Signature, shapes: Shapes, hashes: Mapping[str, int], score: float) -> float:
    """The score of a signature: 1.0 where all is the same that should be; otherwise less, however near."""
    if _body(shapes, hashes, each.apart) != each.body:
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
    for model, count, body, whole, sketch, apart in content:
        hashes = tuple(int(value, 16) for value in sketch.split())
        yield Signature(model, count, int(body, 16), int(whole, 16), hashes, tuple(apart))


def write_signatures(signatures: Iterable[Signature]) -> bytes:
    """The bytes of the file of signatures that a plugin ships; the same for the same signatures."""
    rows = []
    for each in signatures:
        sketch = " ".join(f"{value:x}" for value in each.sketch)
        rows.append([each.name, each.count, f"{each.body:x}", f"{each.whole:x}", sketch, list(each.apart)])
    return gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), mtime=0)


def all_signatures() -> Iterator[Signature]:
    """All signatures that the plugins ship, family by family in the order of resolution."""
    zoo = current_zoo()
    for name in zoo.order:
        where = zoo.member(name).family.signatures
        if where:
            yield from read_signatures(where)
