"""``zoo.embed``: images of any kind to vectors, in memory or in a file; and by these the nearest, copies, outliers."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.embedding.digests import digest_of_module
from zoo_core.embedding.parquet import Row, parquet_path, read_parquet, write_missing, write_parquet
from zoo_core.embedding.shards import images_in, shards_in
from zoo_core.errors import ImageError, UsageError, ZooWarning
from zoo_core.images.loading import Loaded, Source, in_batches, load_images, sources_of
from zoo_core.images.preprocessing import transforms
from zoo_core.images.read import read
from zoo_core.recipe.open_model import open_model
from zoo_core.registry.plugins import plugin_entries
from zoo_core.surgery.features.split import Vectors
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.eval_mode import inferring
from zoo_core.utils.paths import expand, is_file, is_folder, is_there

if TYPE_CHECKING:
    Engine = Callable[["Embedder", Iterable[tuple[Source, str]]], Iterator[Row]]

_NAMED_AT_MOST = 3


@strict_arguments
def embed(
    model: nn.Module | str | os.PathLike[str],
    images: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    size: int | Sequence[int] | None = None,
    weights: str | os.PathLike[str] | None = "default",
    device: str | torch.device | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    engine: str = "local",
) -> Embeddings:
    """Vectors of images: what the head of ``model`` is given, maps and tokens averaged.

    Args:
        model: A model with a head, its name, or the folder of a save.
        images: As for :func:`zoo_core.predict`: a path, a glob, a folder, arrays, tensors, or many of these. The folder
            of an image inside the folder that is searched is its label. Or shards, as WebDataset writes them:
            ``"shards-{000..010}.tar"``, in which a ``.cls`` beside an image is its label.
        out: A Parquet file to write to as the run goes (``zoo-core[embed]``). A run that was killed goes on: images
            that are in it or in its parts already, and have not changed, are not read again; one that has changed and
            cannot be read loses its row. Its paths are absolute.
        size: Height and width that the model sees, instead of those of its weights.
        weights: As for :func:`zoo_core.get`, where ``model`` is a name.
        device: Where the model goes when it is named or saved.
        batch_size: Images in one pass.
        num_workers: Threads that read images; None for one a core.
        engine: ``"local"`` runs the model in this process; ``"ray"`` on a cluster (``zoo-ray``), with the same rows.

    Returns:
        The vectors with the names of their images; images that could not be read are in ``.failed``.

    Raises:
        ImageError: A folder or glob has no images, or none could be read.
        NotSupported: The model has no head, or nothing says how images are prepared.
        UsageError: ``out`` does not end in ``.parquet`` or was made by another model, there is no such engine, or an
            argument is impossible.

    Warns:
        ZooWarning: Some images could not be read.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> images = [np.zeros((32, 32), dtype=np.uint8), np.full((32, 32), 255, dtype=np.uint8)]
        >>> zoo.embed("tiny/glyphnet", images)
        Embeddings(2 vectors of 64)
    """
    file = None if out is None else parquet_path(out)
    embedder = Embedder.of(
        open_model(model, weights=weights, device=device), size=size, batch_size=batch_size, num_workers=num_workers
    )
    run = partial(_engine(engine), embedder)
    if file is not None:
        failed = dict(write_missing(file, embedder.facts(), labelled_sources(images), run))
        result = read_embeddings(file, embedder, failed=failed)
    else:
        result = _in_memory(embedder, run(labelled_sources(images)))
    if result.failed and not len(result):
        name, reason = next(iter(result.failed.items()))
        raise ImageError(reason, name=name)
    if result.failed:
        names = ", ".join([*result.failed][:_NAMED_AT_MOST]) + (", ..." if len(result.failed) > _NAMED_AT_MOST else "")
        msg = f"{len(result.failed)} of {len(result) + len(result.failed)} images have no vector: {names}"
        warnings.warn(msg, ZooWarning, stacklevel=3)
    return result


def _engine(name: str) -> Engine:
    """The engine that embeds images: the ``embed_engine`` of the plugin that is called so.

    Raises:
        UsageError: No installed plugin has one.
    """
    if name == "local":
        return Embedder.run
    plugins = {entry.name: entry for entry in plugin_entries()}
    engine = getattr(plugins[name].load(), "embed_engine", None) if name in plugins else None
    if engine is None:
        expected = "local, or the name of a plugin that brings one, such as ray"
        raise UsageError(f"there is no engine {name!r}", expected=expected, hint="pip install ./plugins/zoo-ray")
    result: Engine = engine
    return result


def _in_memory(embedder: Embedder, found: Iterable[Row]) -> Embeddings:
    """Embed images in memory: their embeddings, from the rows of an engine."""
    rows = list(found)
    good = [row for row in rows if row.vector is not None]
    vectors = [row.vector for row in good if row.vector is not None]
    return Embeddings(
        tuple(row.name for row in good),
        torch.stack(vectors) if vectors else torch.empty(0, 0),
        tuple(row.label for row in good),
        tuple(row.size for row in good),
        {row.name: row.error for row in rows if row.vector is None},
        embedder.model,
        embedder.input_size,
    )


def labelled_sources(images: Any) -> Iterator[tuple[Source, str]]:
    """Each image to embed with its label: the folder it is in below the one searched, or its class in a shard.

    Raises:
        ImageError: A folder or a glob has no images.
    """
    if shards := shards_in(images):
        yield from images_in(shards)
        return
    folder = expand(images) if isinstance(images, str | os.PathLike) else None
    root = folder if folder is not None and folder.is_dir() else None
    for source in sources_of(images)[0]:
        inside = Path(source.name).parent.relative_to(root) if root is not None else Path()
        yield source, "" if inside == Path() else inside.as_posix()


@dataclass(frozen=True)
class Embedder:
    """A model that is ready to embed images, and how."""

    model: nn.Module
    vectors: Vectors
    prepare: nn.Module
    batch_size: int
    num_workers: int | None
    input_size: int | Sequence[int] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        size: int | Sequence[int] | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> Embedder:
        """Ready to embed with these settings.

        Raises:
            NotSupported: The model has no head, or nothing says how images are prepared.
            UsageError: An argument is impossible.
        """
        check_count("batch_size", batch_size)
        if num_workers is not None:
            check_count("num_workers", num_workers, least=0)
        return cls(model, Vectors(model), transforms(model, size=size), batch_size, num_workers, size)

    def facts(self) -> dict[str, str]:
        """What the vectors of this embedder depend on besides the images."""
        return {"backbone": digest_of_module(self.vectors), "transforms": str(self.prepare)}

    def run(self, sources: Iterable[tuple[Source, str]]) -> Iterator[Row]:
        """A row, vector or error, for each image to embed, in order."""
        labels: deque[str] = deque()

        def named() -> Iterator[Source]:
            for source, label in sources:
                labels.append(label)
                yield source

        loaded = load_images(named(), read, self.prepare, num_workers=self.num_workers, ahead=2 * self.batch_size)
        for batch in in_batches(loaded, self.batch_size):
            good = [each for each in batch if each.tensor is not None]
            vectors = iter(self._vectors(good))
            for each in batch:
                result: Any = each.error if each.tensor is None else next(vectors)
                label = labels.popleft()
                if isinstance(result, Exception):
                    yield Row(each.name, None, label, error=str(result))
                elif not result.isfinite().all():
                    reason = f"{each.name}: no vector: the model returns nan or infinity for it"
                    yield Row(each.name, None, label, error=reason)
                else:
                    yield Row(each.name, result, label, each.size)

    def vector_of(self, image: Any) -> Tensor:
        """The vector of one image, ``[D]``.

        Raises:
            ImageError: It cannot be read, or is of a size that the model cannot take.
            UsageError: There are several.
        """
        sources = list(islice(sources_of(image)[0], 2))
        if len(sources) > 1:
            raise UsageError(f"{image} is several images", expected="one, to find those that are near")
        (row,) = self.run((source, "") for source in sources)
        if row.vector is None:
            raise ImageError(row.error, name=row.name)
        return row.vector

    def _vectors(self, batch: list[Loaded]) -> list[Any]:
        tensors = [each.tensor for each in batch if each.tensor is not None]
        if not tensors:
            return []
        like = next((p for p in self.model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
        try:
            with inferring(self.vectors):
                result = self.vectors(torch.stack(tensors).to(like.device, like.dtype)).float().cpu()
        except RuntimeError as error:  # of the model, at a size that it cannot take
            if len(batch) > 1:
                return [vector for each in batch for vector in self._vectors([each])]
            return [ImageError(f"{batch[0].name}: no vector: {str(error).partition(chr(10))[0]}", name=batch[0].name)]
        return [vector.clone() for vector in result]  # each by itself: a part of a batch is pickled with all of it


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

    def __post_init__(self) -> None:
        """Refuse columns that are not as long as each other: names would be those of other vectors."""
        for what, each in (("names", self.names), ("labels", self.labels), ("sizes", self.sizes)):
            if (each or what == "names") and len(each) != len(self.vectors):
                raise UsageError(f"{len(each)} {what} for {len(self.vectors)} vectors", expected="one for each")

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
            UsageError: There is no model for an image, there are several images, or the vector is zero or of another
                length.
        """
        check_count("k", k)
        vector = self._vector(query)
        if not vector.isfinite().all() or not vector.any():
            what = "has nan or infinity in it" if vector.any() else "is zero, which has no direction"
            raise UsageError(f"the vector {what}, to which nothing is near")
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
        check_count("k", k)
        if len(self) == 1:  # like nothing, and unlike nothing
            return []
        means = [torch.empty(0)]
        for start, similar in self._similarities():
            similar[torch.arange(len(similar)), torch.arange(start, start + len(similar))] = -1.0  # not itself
            means.append(similar.topk(min(k, len(self) - 1), dim=1).values.mean(1))
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
    """Read the ``Embeddings`` that ``zoo.embed`` wrote, with the model that made them and the images that failed.

    Raises:
        UsageError: It is no such file.
    """
    made_by = (embedder.model, embedder.input_size) if embedder else ()
    if not is_there(path) and failed:
        return Embeddings((), torch.empty(0, 0), (), (), failed, *made_by)
    if not is_file(path):
        got = "a folder" if is_folder(path) else "no such file"
        raise UsageError(f"{path} holds no embeddings", got=got, hint="zoo embed writes such a file")
    paths, vectors, labels, sizes = read_parquet(path)
    return Embeddings(tuple(paths), vectors, tuple(labels), tuple(sizes), failed or {}, *made_by)
