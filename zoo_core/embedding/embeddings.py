"""Vectors of many images, in memory and in a Parquet file: the nearest, near duplicates, outliers, classes."""

from __future__ import annotations

import glob
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name torch's own pages give it

from zoo_core.embedding.embedder import Embedder, Row
from zoo_core.embedding.shards import Packed
from zoo_core.errors import ImageError, UsageError, ZooError
from zoo_core.utils.arguments import check_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from zoo_core.embedding.embedder import Engine
    from zoo_core.images.read import Source


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

    def nearest(self, query: Any, k: int = 5, *, exact: bool | None = None) -> list[tuple[str, float]]:  # noqa: ANN401
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
        """Pairs of images whose vectors are at least as alike as ``threshold``, the most alike first."""
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
        return _write_embeddings(self, parquet_file(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Those in a Parquet file that :meth:`save` or ``zoo embed`` wrote.

        Raises:
            UsageError: It is no such file.
        """
        return read_embeddings(Path(path))

    @cached_property
    def _index(self) -> Any:  # noqa: ANN401 - usearch's, or None where it is not installed
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

    def _vector(self, query: Any) -> Tensor:  # noqa: ANN401 - a vector, or anything that is an image
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


_FACTS = b"zoo"
PART = 1024
"""Images in a part: what a crash costs at most."""


def parquet_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file of embeddings to write, whose name has to say that it is Parquet.

    Raises:
        UsageError: It has another suffix, or none.
    """
    result = Path(path)
    if result.suffix.lower() != ".parquet":
        instead = result.parent / f"{result.stem.removesuffix('.parquet') or 'features'}.parquet"
        raise UsageError(
            f"vectors are not written to {result}",
            expected="a name that ends in .parquet, which is the one format of these files",
            got=f"the suffix {result.suffix!r}" if result.suffix else "no suffix",
            done="nothing was written",
            hint=f"{instead}; pandas, Polars and DuckDB read it, and write others",
        )
    return result


def resume(
    out: Path, embedder: Embedder, sources: Iterable[tuple[Source, str]], engine: Engine
) -> Iterator[tuple[str, str]]:
    """Write the embeddings of all images to a file, those there already excepted, and give those that failed.

    Raises:
        UsageError: The file was made by another model or with other transforms, or cannot be written.
        ZooError: pyarrow is not installed.
    """
    _pyarrow()
    facts = embedder.facts()
    parts = out.with_name(f"{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        with _one_run(out):
            yield from _resume(out, parts, facts, lambda done: engine(embedder, _not_yet(sources, done)))
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        raise UsageError(f"{out} cannot be written", cause=str(error), hint="another file for out") from error


def _resume(
    out: Path, parts: Path, facts: dict[str, str], run: Callable[[dict[str, str]], Iterator[Row]]
) -> Iterator[tuple[str, str]]:
    """Resume a file of embeddings: write the rows it lacks, in parts, and give the images that failed."""
    parts.mkdir(exist_ok=True)  # the run before may have removed it
    files = _whole_files(out, parts)
    for file in files:
        _require_same(file, facts)
    done = {path: label for file in files for path, label in _labels(file)}
    rows: list[Row] = []
    for row in run(done):
        if row.vector is None:
            yield row.name, row.error
            continue
        rows.append(row)
        if len(rows) == PART:
            _write_part(parts, rows, facts)
            rows = []
    if rows:
        _write_part(parts, rows, facts)
    _merge(out, parts)


@contextmanager
def _one_run(out: Path) -> Iterator[None]:
    """Lock a file of embeddings for one run: two would give their parts the same numbers, and lose rows.

    Raises:
        UsageError: Another process, or another thread, writes to the file.
    """
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"another run is writing to {out}", done="nothing was written", hint="wait for it, or another file for out"
        ) from error
    try:
        yield
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _not_yet(sources: Iterable[tuple[Source, str]], done: dict[str, str]) -> Iterator[tuple[Source, str]]:
    """The images that have no embedding yet, by their absolute paths, whichever folder a run starts in.

    Raises:
        UsageError: An image has no path, or a row with another label.
    """
    rows = {os.path.abspath(name): label for name, label in done.items()}  # noqa: PTH100 - links stay: their names may be labels
    new: set[str] = set()
    for source, label in sources:
        if not isinstance(source.item, str | os.PathLike | ImageError | Packed):
            raise UsageError(
                f"{source.name} has no path, by which a file of embeddings knows what it has already",
                hint="zoo.embed(model, images).save(out) writes vectors of images without paths",
            )
        name = os.path.abspath(source.name)  # noqa: PTH100 - as above
        if label and rows.get(name, label) != label:
            raise UsageError(
                f"{name} has a row with the label {rows[name]!r}, and its label is {label!r} now",
                cause="a label is the folder of an image inside the one that is embedded, and that was another one",
                hint="give another file for out",
            )
        if name not in rows and name not in new:
            new.add(name)  # a path that is listed twice is one image
            yield source._replace(name=name), label


def _whole_files(out: Path, parts: Path) -> list[Path]:
    """The files of embeddings that are whole: the one there was and its parts; torn ones are removed."""
    for torn in (*parts.glob(".*"), *out.parent.glob(f".{glob.escape(out.name)}.[0-9]*")):
        torn.unlink()
    return [*([out] if out.exists() else []), *sorted(parts.glob("*.parquet"))]


def _write_part(parts: Path, rows: list[Row], facts: dict[str, str]) -> None:
    """Write embeddings as one more part of a Parquet file."""
    number = 1 + max((int(path.stem) for path in parts.glob("*.parquet")), default=-1)
    _write(parts / f"{number:08}.parquet", _table(rows, facts))


def _table(rows: list[Row], facts: dict[str, str]) -> Any:  # noqa: ANN401 - pyarrow's
    """Embeddings as a table of pyarrow."""
    pa, _ = _pyarrow()
    vectors = torch.stack([row.vector for row in rows if row.vector is not None])
    flat = pa.array(vectors.flatten().numpy(), type=pa.float32())
    columns = {
        "path": pa.array([row.name for row in rows], type=pa.string()),
        "label": pa.array([row.label for row in rows], type=pa.string()),
        "height": pa.array([row.size[0] for row in rows], type=pa.int32()),
        "width": pa.array([row.size[1] for row in rows], type=pa.int32()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    return pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(facts)})


def _write(path: Path, table: Any) -> None:  # noqa: ANN401 - pyarrow's
    """Write a table of embeddings under a name that is there when it is whole."""
    _, pq = _pyarrow()
    with _replaced_file(path) as file:
        pq.write_table(table, file)


@contextmanager
def _replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces that of embeddings at ``path`` once it is on the disk, and is removed where it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _merge(out: Path, parts: Path) -> None:
    """Merge the parts of a file of embeddings into it; after a crash before the end a later run goes on."""
    _, pq = _pyarrow()
    files = _whole_files(out, parts)
    if files and files != [out]:
        seen: set[str] = set()  # parts are removed after the file has their rows, and a crash may come between
        with _replaced_file(out) as file, pq.ParquetWriter(file, pq.read_schema(files[0])) as writer:
            for each in files:
                rows = set(_paths(each))
                if not rows <= seen:
                    writer.write_table(pq.read_table(each))
                    seen |= rows
    shutil.rmtree(parts)


def _paths(file: Path) -> list[str]:
    """The paths of the images in a file of embeddings."""
    _, pq = _pyarrow()
    result: list[str] = pq.read_table(file, columns=["path"])["path"].to_pylist()
    return result


def _labels(file: Path) -> list[tuple[str, str]]:
    """The paths and labels of the images in a file of embeddings."""
    _, pq = _pyarrow()
    table = pq.read_table(file, columns=["path", "label"])
    return list(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))


def _require_same(file: Path, facts: dict[str, str]) -> None:
    """Refuse to add to a file of embeddings that was made with another model or other settings."""
    before = _stored_facts(file)
    if differing := [name for name in facts if before.get(name) != facts[name]]:
        raise UsageError(
            f"{file} was made with another {' and other '.join(differing)}",
            done="nothing was written",
            hint="give another file for out, or remove this one and its folder of parts",
        )


def _stored_facts(file: Path) -> dict[str, str]:
    """How the embeddings in a file were made, by its metadata."""
    pa, pq = _pyarrow()
    try:
        result: dict[str, str] = json.loads((pq.read_schema(file).metadata or {})[_FACTS])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(
            f"{file} holds no embeddings of zoo", cause=str(error), hint="give another file for out"
        ) from error
    return result


def _write_embeddings(found: Embeddings, path: Path) -> Path:
    """Write embeddings to a Parquet file, whole or not at all."""
    sizes = found.sizes or ((0, 0),) * len(found)
    labels = found.labels or ("",) * len(found)
    rows = [Row(*each) for each in zip(found.names, found.vectors.float(), labels, sizes, strict=True)]
    if not rows:
        raise UsageError("there are no embeddings to write")
    _write(path, _table(rows, {}))
    return path


def read_embeddings(path: Path, embedder: Embedder | None = None, failed: dict[str, str] | None = None) -> Embeddings:
    """The embeddings in a Parquet file.

    Raises:
        UsageError: It is no such file.
    """
    made_by = (embedder.model, embedder.input_size) if embedder else ()
    pa, pq = _pyarrow()
    if not path.exists() and failed:
        return Embeddings((), torch.empty(0, 0), (), (), failed, *made_by)
    try:
        table = pq.read_table(path)
        column = table["vector"].combine_chunks()
        size = column.type.list_size
        flat = column.values.to_numpy() if len(column) else column.values.to_numpy(zero_copy_only=False)
        vectors = torch.from_numpy(flat.copy()).reshape(-1, size)
        paths, labels, heights, widths = (table[name].to_pylist() for name in ("path", "label", "height", "width"))
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} holds no embeddings", cause=str(error), hint="zoo embed writes such a file"
        ) from error
    sizes = tuple(zip(heights, widths, strict=True))
    return Embeddings(tuple(paths), vectors, tuple(labels), sizes, failed or {}, *made_by)


def _pyarrow() -> tuple[Any, Any]:
    """The two modules of pyarrow that files of embeddings need."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ZooError("Parquet files need pyarrow", hint="pip install 'zoo-core[embed]'") from error
    return pa, pq
