"""What a state dict says of images and results: channels, image size, classes, keypoints and the form of the head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    Shapes = Mapping[str, tuple[int, ...]]

_MATRIX, _KERNEL = 2, 4
_EXTRA_TOKENS = (1, 0, 2, 5, 4, 8)
"""How many tokens of a position table are not of the image: class, distillation and register tokens."""
_TABLES = ("pos_embed", "pos_embedding", "position_embedding", "position_embeddings", "absolute_pos_embed")
_SHOWN = 4


@dataclass(frozen=True)
class Ends:
    """What names and shapes tell of both ends of a model; None where they do not tell.

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

    @classmethod
    def of(cls, shapes: Shapes, apart: Collection[str] = ()) -> Self:
        """The ends of a state dict.

        Args:
            shapes: Tensor name to shape, in the order of the file.
            apart: Paths of heads, and names of first layers, of the model that it looks like.

        Example:
            >>> shapes = {"stem.weight": (8, 3, 3, 3), "fc.0.weight": (16, 8), "fc.2.weight": (9, 16)}
            >>> Ends.of(shapes, ["fc"])
            Ends(classes=9, channels=3, image_size=None, keypoints=None, head='fc: 8 to 16 to 9')
        """
        weights = {name: shape for name, shape in shapes.items() if name.endswith("weight") and len(shape) >= _MATRIX}
        first = next((shape for shape in weights.values() if len(shape) >= _KERNEL), None)
        heads = [(path, _layers(weights, path)) for path in sorted(apart) if path not in shapes]
        path, layers = next(((path, each) for path, each in heads if each), ("", []))
        last = layers or [*weights.values()]
        kernel = next((shape for name, shape in shapes.items() if "keypoint" in name and len(shape) == _KERNEL), None)
        scores = next((s for name, s in shapes.items() if "kps_score" in name and len(s) == _KERNEL), None)
        return cls(
            classes=last[-1][0] if last else None,
            channels=first[1] if first else None,
            image_size=_image_size(shapes, first),
            keypoints=scores[1] if scores and kernel else None,
            head=_words(path, layers) if layers else None,
        )


def _layers(weights: Shapes, path: str) -> list[tuple[int, ...]]:
    return [shape for name, shape in weights.items() if name.startswith(f"{path}.")]


def _words(path: str, layers: list[tuple[int, ...]]) -> str:
    """A chain of layers in one line; others by how many they are."""
    is_chain = all(one[0] == other[1] for one, other in pairwise(layers))
    if is_chain and len(layers) <= _SHOWN:
        return f"{path}: {' to '.join(map(str, (layers[0][1], *(shape[0] for shape in layers))))}"
    outputs = ", ".join(str(shape[0]) for shape in layers[:_SHOWN])
    return f"{path}: {len(layers)} layers, of {outputs}{', ...' if len(layers) > _SHOWN else ''} outputs"


def _image_size(shapes: Shapes, first: tuple[int, ...] | None) -> int | None:
    """From a table of positions and the patches of the first layer."""
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
