"""Vectors of many images, and what is found by them: the nearest, near duplicates, outliers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.embedding.embedder import Embedder, Row
from zoo_core.embedding.parquet import parquet_path, read_parquet, write_parquet
from zoo_core.errors import UsageError
from zoo_core.utils.arguments import check_count

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from torch import nn


_EXACT_BELOW = 20_000
"""So many vectors are compared one by one in less time than an index of them takes to build."""
_BLOCK = 4096
_ROUNDING = 1e-6
"""How far from 1 the cosine of two equal vectors may be."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of images, and what these are called.

    Attributes:
        names: Path or number of each image.
        vectors: ``[N, D]``, float32.
        labels: The folder of each image inside the folder that was searched; ``""`` for none.
        sizes: Height and width of each image, in pixels.
        failed: Name and reason for each image that could not be read.
        model: What made them, for :meth:`nearest` of an image; None for those from a file.
        input_size: Height and width that the model saw, where they are not those of its weights.

    Example:
        >>> import torch
        >>> found = Embeddings(("a", "b", "c"), torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
        >>> [name for name, similarity in found.nearest(found.vectors[0], 2)]
        ['a', 'b']
        >>> found.duplicates(0.95)
        [('a', 'b', 0.9938...)]
    """

    names: tuple[str, ...]
    vectors: Tensor
    labels: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    model: nn.Module | None = field(default=None, repr=False)
    input_size: int | Sequence[int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        count, size = self.vectors.shape
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Embeddings({count} vectors of {size}{failed})"

    def nearest(self, query: Any, k: int = 5, *, exact: bool | None = None) -> list[tuple[str, float]]:
        """The images most like one, by the cosine of their vectors.

        Args:
            query: A vector ``[D]``; or an image of any kind that :func:`zoo_core.predict` takes, where these come from
                :func:`zoo_core.embed` in this process.
            k: How many.
            exact: Compare all of them; False asks an index of usearch (``zoo-core[embed]``); None does that for 20,000
                vectors and more, where it is installed.

        Returns:
            Names and similarities from -1 to 1, the most similar first.

        Raises:
            UsageError: There is no model for an image, or the vector is of another length.
        """
        check_count("k", k)
        vector = self._vector(query)
        if not vector.isfinite().all():
            raise UsageError("the vector has nan or infinity in it, to which nothing is near")
        self.require_finite()
        if not len(self):
            return []
        index = None if exact or (exact is None and len(self) < _EXACT_BELOW) else self._index
        if index is None and exact is False:
            raise UsageError("an index needs usearch", hint="pip install 'zoo-core[embed]', or exact=True")
        if index is not None:
            matches = index.search(vector.numpy(), min(k, len(self)))
            return [
                (self.names[int(key)], 1 - float(far)) for key, far in zip(matches.keys, matches.distances, strict=True)
            ]
        similar = F.normalize(self.vectors, dim=1) @ F.normalize(vector, dim=0)
        result = similar.topk(min(k, len(self)))
        return [
            (self.names[i], value) for i, value in zip(result.indices.tolist(), result.values.tolist(), strict=True)
        ]

    def duplicates(self, threshold: float = 0.98) -> list[tuple[str, str, float]]:
        """Pairs of images whose vectors are at least as alike as ``threshold``, the most alike first.

        Raises:
            UsageError: ``threshold`` is no cosine similarity.
        """
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not -1 <= threshold <= 1:
            raise UsageError(f"threshold cannot be {threshold!r}", expected="a cosine similarity, such as 0.98")
        pairs = []
        for start, similar in self._similarities():
            rows, columns = torch.nonzero(similar >= threshold - _ROUNDING, as_tuple=True)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                if column > start + row:
                    pairs.append((self.names[start + row], self.names[column], similar[row, column].item()))
        return sorted(pairs, key=lambda pair: -pair[2])

    def outliers(self, count: int = 10, *, k: int = 5) -> list[tuple[str, float]]:
        """The images least like their ``k`` nearest, with the mean similarity to these, the strangest first."""
        check_count("count", count)
        means = [torch.empty(0)]
        for start, similar in self._similarities():
            similar[torch.arange(len(similar)), torch.arange(start, start + len(similar))] = -1.0  # not itself
            means.append(similar.topk(min(k, max(len(self) - 1, 1)), dim=1).values.mean(1))
        values = torch.cat(means)
        order = values.argsort(stable=True)[:count]
        return [(self.names[i], values[i].item()) for i in order.tolist()]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write them to a Parquet file, whole or not at all; needs pyarrow (``zoo-core[embed]``).

        Raises:
            UsageError: ``path`` does not end in ``.parquet``, or there are none.
        """
        file = parquet_path(path)
        sizes = self.sizes or ((0, 0),) * len(self)
        labels = self.labels or ("",) * len(self)
        rows = [Row(*each) for each in zip(self.names, self.vectors.float(), labels, sizes, strict=True)]
        return write_parquet(file, rows)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Those in a Parquet file that :meth:`save` or ``zoo embed`` wrote.

        Raises:
            UsageError: It is no such file.
        """
        return read_embeddings(Path(path))

    @cached_property
    def _index(self) -> Any:
        """Index for the nearest embeddings, built at the first search, which takes longer than many without one."""
        try:
            from usearch.index import Index
        except ImportError:
            return None
        import numpy as np

        index = Index(ndim=self.vectors.shape[1], metric="cos", dtype="f32")
        index.add(np.arange(len(self)), self.vectors.numpy())
        return index

    def require_finite(self) -> None:
        """Refuse vectors to which everything, or nothing, would be near.

        Raises:
            UsageError: One has nan or infinity in it.
        """
        bad = torch.nonzero(~self.vectors.isfinite().all(1)).flatten().tolist()
        if bad:
            raise UsageError(
                f"vectors with nan or infinity in them: {len(bad)}, such as that of {self.names[bad[0]]}",
                hint="embed the images again, with the model in float32",
            )

    def _similarities(self) -> Iterator[tuple[int, Tensor]]:
        self.require_finite()
        unit = F.normalize(self.vectors, dim=1)
        for start in range(0, len(unit), _BLOCK):
            yield start, unit[start : start + _BLOCK] @ unit.T

    def _vector(self, query: Any) -> Tensor:
        if not (isinstance(query, Tensor) and query.ndim == 1):
            if self.model is None:
                raise UsageError(
                    "these embeddings have no model to embed an image with",
                    hint="zoo.embed(model, image).vectors[0], with the model that made them, is a vector",
                )
            query = Embedder.of(self.model, size=self.input_size).vector_of(query)
        if len(query) != self.vectors.shape[1]:
            raise UsageError(f"a vector of {len(query)} numbers among vectors of {self.vectors.shape[1]}")
        vector: Tensor = query.detach().float().cpu()
        return vector


def read_embeddings(path: Path, embedder: Embedder | None = None, failed: dict[str, str] | None = None) -> Embeddings:
    """The ``Embeddings`` in a Parquet file, with the model that made them and the images that failed.

    Raises:
        UsageError: It is no such file.
    """
    made_by = (embedder.model, embedder.input_size) if embedder else ()
    if not path.exists() and failed:
        return Embeddings((), torch.empty(0, 0), (), (), failed, *made_by)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path} holds no embeddings", got=got, hint="zoo embed writes such a file")
    paths, vectors, labels, sizes = read_parquet(path)
    return Embeddings(tuple(paths), vectors, tuple(labels), tuple(sizes), failed or {}, *made_by)
