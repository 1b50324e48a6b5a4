"""Embeddings in a Parquet file: written in parts while a run goes, so that one that was killed goes on.

Beside ``features.parquet`` is a folder of parts, each written whole or not at all. An image is done when a part or
the file has its path, so no row is there twice and none is lost, whenever the process dies.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from zoo_core.embedding.embed import Row
from zoo_core.embedding.embeddings import Embeddings
from zoo_core.errors import ImageError, UsageError, ZooError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn

    from zoo_core.embedding.embed import Embedder
    from zoo_core.images.sources import Source

_FACTS = b"zoo"
PART = 1024
"""Images in a part: what a crash costs at most."""


def resume(out: Path, embedder: Embedder, sources: Iterable[tuple[Source, str]]) -> Iterator[tuple[str, str]]:
    """Write the rows of all images to a file, those that are there already excepted, and give those that failed.

    Raises:
        UsageError: The file was made by another model or with other transforms, or cannot be written.
        ZooError: pyarrow is not installed.
    """
    facts = embedder.facts()
    parts = out.with_name(f"{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            yield from _resume(out, parts, embedder, sources, facts)
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        raise UsageError(f"{out} cannot be written", cause=str(error), hint="another file for out") from error


def _resume(
    out: Path, parts: Path, embedder: Embedder, sources: Iterable[tuple[Source, str]], facts: dict[str, str]
) -> Iterator[tuple[str, str]]:
    parts.mkdir(exist_ok=True)  # the run before may have removed it
    files = _whole_files(out, parts)
    for file in files:
        _require_same(file, facts)
    done = {path for file in files for path in _paths(file)}
    rows: list[Row] = []
    for row in embedder.run(_not_yet(sources, done)):
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
def _alone(out: Path) -> Iterator[None]:
    """One run at a time: two would give their parts the same numbers, and lose rows.

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


def _not_yet(sources: Iterable[tuple[Source, str]], done: set[str]) -> Iterator[tuple[Source, str]]:
    for source, label in sources:
        if not isinstance(source.item, str | os.PathLike | ImageError):
            raise UsageError(
                f"{source.name} has no path, by which a file of embeddings knows what it has already",
                hint="zoo.embed(model, images).save(out) writes vectors of images without paths",
            )
        if source.name not in done:
            done.add(source.name)  # a path that is listed twice is one image
            yield source, label


def _whole_files(out: Path, parts: Path) -> list[Path]:
    for torn in (*parts.glob(".*"), *out.parent.glob(f".{glob.escape(out.name)}.[0-9]*")):
        torn.unlink()
    return [*([out] if out.exists() else []), *sorted(parts.glob("*.parquet"))]


def _write_part(parts: Path, rows: list[Row], facts: dict[str, str]) -> None:
    number = 1 + max((int(path.stem) for path in parts.glob("*.parquet")), default=-1)
    _write(parts / f"{number:08}.parquet", _table(rows, facts))


def _table(rows: list[Row], facts: dict[str, str]) -> Any:  # noqa: ANN401 - pyarrow's
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
    """Write a table under a name that is there when it is whole."""
    _, pq = _pyarrow()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _merge(out: Path, parts: Path) -> None:
    """One file of the file there was and its parts; a crash before the end leaves what a later run goes on with."""
    _, pq = _pyarrow()
    files = _whole_files(out, parts)
    if files and files != [out]:
        temporary = out.with_name(f".{out.name}.{os.getpid()}")
        seen: set[str] = set()  # parts are removed after the file has their rows, and a crash may come between
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, pq.read_schema(files[0])) as writer:
                for each in files:
                    rows = set(_paths(each))
                    if not rows <= seen:
                        writer.write_table(pq.read_table(each))
                        seen |= rows
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    shutil.rmtree(parts)


def _paths(file: Path) -> list[str]:
    _, pq = _pyarrow()
    result: list[str] = pq.read_table(file, columns=["path"])["path"].to_pylist()
    return result


def _require_same(file: Path, facts: dict[str, str]) -> None:
    before = _facts(file)
    if differing := [name for name in facts if before.get(name) != facts[name]]:
        raise UsageError(
            f"{file} was made with another {' and other '.join(differing)}",
            done="nothing was written",
            hint="give another file for out, or remove this one and its folder of parts",
        )


def _facts(file: Path) -> dict[str, str]:
    pa, pq = _pyarrow()
    try:
        result: dict[str, str] = json.loads((pq.read_schema(file).metadata or {})[_FACTS])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(
            f"{file} holds no embeddings of zoo", cause=str(error), hint="give another file for out"
        ) from error
    return result


def write_embeddings(found: Embeddings, path: Path) -> Path:
    """Write embeddings to a Parquet file, whole or not at all."""
    sizes = found.sizes or ((0, 0),) * len(found)
    labels = found.labels or ("",) * len(found)
    rows = [Row(*each) for each in zip(found.names, found.vectors.float(), labels, sizes, strict=True)]
    if not rows:
        raise UsageError("there are no embeddings to write")
    _write(path, _table(rows, {}))
    return path


def read_embeddings(path: Path, *, model: nn.Module | None = None, failed: dict[str, str] | None = None) -> Embeddings:
    """The embeddings in a Parquet file.

    Raises:
        UsageError: It is no such file.
    """
    pa, pq = _pyarrow()
    if not path.exists() and failed:
        return Embeddings((), torch.empty(0, 0), failed=failed, model=model)
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
    return Embeddings(tuple(paths), vectors, tuple(labels), sizes, failed or {}, model)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ZooError("Parquet files need pyarrow", hint="pip install 'zoo-core[embed]'") from error
    return pa, pq
