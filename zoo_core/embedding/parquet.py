"""Embeddings in a Parquet file, which a run writes in parts, and goes on with after it was interrupted."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from zoo_core.embedding.shards import Packed
from zoo_core.errors import ImageError, UsageError, ZooError, ZooWarning

if TYPE_CHECKING:
    from zoo_core.images.loading import Source


_FACTS = b"zoo"
_REPEATED = ["label", "height", "width"]
"""Columns that a dictionary makes smaller; numbers of vectors hardly repeat, and one took a quarter more of a file."""

PART = 1024
"""Images in a part: what a crash costs at most."""


@dataclass(frozen=True)
class Row:
    """The row of one image in a Parquet file: its name, vector, label and size; or the reason why it has none."""

    name: str
    vector: Tensor | None
    label: str = ""
    size: tuple[int, int] = (0, 0)
    error: str = ""


def parquet_path(path: str | os.PathLike[str]) -> Path:
    """The path of a Parquet file to write embeddings to, whose name has to say that it is one.

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


def write_missing(
    out: Path,
    facts: dict[str, str],
    sources: Iterable[tuple[Source, str]],
    run: Callable[[Iterator[tuple[Source, str]]], Iterator[Row]],
) -> Iterator[tuple[str, str]]:
    """Write the embeddings that a Parquet file lacks, and give the images that failed.

    Args:
        out: The file.
        facts: What its vectors depend on besides the images.
        sources: The images with their labels.
        run: Makes the rows of those that are not in the file.

    Raises:
        UsageError: The file was made by another model or with other transforms, or cannot be written.
        ZooError: pyarrow is not installed.
    """
    _pyarrow()
    parts = out.with_name(f"{out.name}.parts")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            try:
                yield from _write_parts(out, parts, facts, sources, run)
            finally:
                with suppress(OSError):  # it has parts, for a later run
                    parts.rmdir()
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        raise UsageError(f"{out} cannot be written", cause=str(error), hint="another file for out") from error


def _write_parts(
    out: Path,
    parts: Path,
    facts: dict[str, str],
    sources: Iterable[tuple[Source, str]],
    run: Callable[[Iterator[tuple[Source, str]]], Iterator[Row]],
) -> Iterator[tuple[str, str]]:
    """Write the rows that a Parquet file lacks, in parts, merge them, and give the images that failed."""
    parts.mkdir(exist_ok=True)
    files = _whole_files(out, parts)
    for file in files:
        _require_same(file, facts)
    done = {path: known for file in files for path, known in _known(file)}
    versions: dict[str, int] = {}
    gone: set[str] = set()
    rows: list[tuple[Row, int]] = []
    unreadable: set[str] = set()
    for row in run(_not_yet(sources, done, versions, gone)):
        version = versions.pop(row.name)
        if row.vector is None:
            unreadable.add(row.name)
            yield row.name, row.error
            continue
        rows.append((row, version))
        if len(rows) == PART:
            _write_part(parts, rows, facts)
            rows = []
    if rows:
        _write_part(parts, rows, facts)
    _merge(out, parts, unreadable)
    if gone:
        which = f"{len(gone)} listed images are" if len(gone) > 1 else "a listed image is"
        warnings.warn(
            f"{which} not there now, and what {out} has of before stays: {min(gone)}", ZooWarning, stacklevel=2
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock a Parquet file for one run: two would give their parts the same numbers, and lose rows.

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
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _not_yet(
    sources: Iterable[tuple[Source, str]], done: dict[str, tuple[str, int]], versions: dict[str, int], gone: set[str]
) -> Iterator[tuple[Source, str]]:
    """The images that have no row in a Parquet file yet, or had other bytes, whichever folder a run starts in.

    Args:
        sources: The images with their labels.
        done: Label and version of each path in the file.
        versions: Takes the version of each image that is given.
        gone: Takes the names of images that have a row and are not there now.

    Raises:
        UsageError: An image has no path, or a row with another label.
    """
    rows = {os.path.abspath(name): known for name, known in done.items()}  # noqa: PTH100 - links stay: their names may be labels
    new: set[str] = set()
    for source, label in sources:
        if not isinstance(source.item, str | os.PathLike | ImageError | Packed):
            raise UsageError(
                f"{source.name} has no path, by which a file of embeddings knows what it has already",
                hint="zoo.embed(model, images).save(out) writes vectors of images without paths",
            )
        name = os.path.abspath(source.name)  # noqa: PTH100 - as above
        before, version = rows.get(name), _version(source.item)
        if label and before is not None and before[0] != label:
            raise UsageError(
                f"{name} has a row with the label {before[0]!r}, and its label is {label!r} now",
                cause="a label is the folder of an image inside the one that is embedded, and that was another one",
                hint="give another file for out",
            )
        if name not in new and (before is None or version not in (0, before[1])):
            new.add(name)  # a path that is listed twice is one image
            versions[name] = version
            yield _encodable(source._replace(name=name), label), label
        elif before is not None and not version:
            gone.add(name)


def _version(item: object) -> int:
    """The version of an image in its row of the Parquet file: by length and time of its file, or its bytes in a shard.

    It is 0 where the image is not there.
    """
    if isinstance(item, Packed):
        facts = bytes(item)
    elif isinstance(item, str | os.PathLike):
        try:
            status = os.stat(item)  # noqa: PTH116 - pathlib's raises for a name with a null byte too
        except (OSError, ValueError):
            return 0
        facts = f"{status.st_size} {status.st_mtime_ns}".encode()
    else:
        return 0
    return int.from_bytes(hashlib.blake2b(facts, digest_size=8).digest(), signed=True)


def _encodable(source: Source, label: str) -> Source:
    """An image to embed, or the reason where its path or label is no text that a Parquet file can hold."""
    try:
        f"{source.name}{label}".encode()
    except UnicodeEncodeError:
        problem = ImageError(
            f"{source.name}: its path is not UTF-8, which the text of a Parquet file is",
            hint="rename it, or embed it without a file",
            name=source.name,
        )
        return source._replace(item=problem)
    return source


def _whole_files(out: Path, parts: Path) -> list[Path]:
    """The Parquet files that are whole: the one there was and its parts; torn ones are removed."""
    for torn in (*parts.glob(".*"), *out.parent.glob(f".{glob.escape(out.name)}.[0-9]*")):
        torn.unlink()
    return [*([out] if out.exists() else []), *sorted(parts.glob("*.parquet"))]


def _write_part(parts: Path, rows: list[tuple[Row, int]], facts: dict[str, str]) -> None:
    """Write embeddings as one more part of a Parquet file."""
    number = 1 + max((int(path.stem) for path in parts.glob("*.parquet")), default=-1)
    _write_table(parts / f"{number:08}.parquet", _table(rows, facts))


def _table(versioned: list[tuple[Row, int]], facts: dict[str, str]) -> Any:
    """The rows of embeddings, each with the version of its image, as a table for a Parquet file."""
    pa, _ = _pyarrow()
    rows, versions = zip(*versioned, strict=True)
    vectors = torch.stack([row.vector for row in rows if row.vector is not None])
    flat = pa.array(vectors.flatten().numpy(), type=pa.float32())
    columns = {
        "path": pa.array([row.name for row in rows], type=pa.string()),
        "label": pa.array([row.label for row in rows], type=pa.string()),
        "height": pa.array([row.size[0] for row in rows], type=pa.int32()),
        "width": pa.array([row.size[1] for row in rows], type=pa.int32()),
        "version": pa.array(versions, type=pa.int64()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    return pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(facts)})


def _write_table(path: Path, table: Any) -> None:
    """Write a table to a Parquet file, whose name is there when it is whole."""
    _, pq = _pyarrow()
    with _replaced_file(path) as file:
        pq.write_table(table, file, use_dictionary=_REPEATED)


@contextmanager
def _replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A Parquet file that replaces the one at ``path`` once it is on the disk, and is removed where it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _merge(out: Path, parts: Path, unreadable: set[str]) -> None:
    """Merge the parts of a Parquet file into it: the newest row of each image, and none of what cannot be read now.

    After a crash before the end a later run goes on.
    """
    _, pq = _pyarrow()
    files = _whole_files(out, parts)
    # parts are removed after the file has their rows, and a crash may come between; an image may have changed
    several = enumerate(files if files != [out] or unreadable else ())
    newest = {path: number for number, file in several for path, _ in _known(file)}
    stale = {path for path in newest if os.path.abspath(path) in unreadable}  # noqa: PTH100 - as in _not_yet
    if files and (files != [out] or stale):
        schema = pq.read_schema(files[0])
        with _replaced_file(out) as file, pq.ParquetWriter(file, schema, use_dictionary=_REPEATED) as writer:
            for number, each in enumerate(files):
                table = pq.read_table(each)
                kept = [newest[path] == number and path not in stale for path in table["path"].to_pylist()]
                if any(kept):
                    writer.write_table(table if all(kept) else table.filter(kept))
    shutil.rmtree(parts)


def _known(file: Path) -> list[tuple[str, tuple[str, int]]]:
    """The paths of the images in a Parquet file of embeddings, each with its label and version."""
    _, pq = _pyarrow()
    table = pq.read_table(file, columns=["path", "label", "version"])
    paths, labels, versions = (table[name].to_pylist() for name in ("path", "label", "version"))
    return list(zip(paths, zip(labels, versions, strict=True), strict=True))


def _require_same(file: Path, facts: dict[str, str]) -> None:
    """Refuse to add to a Parquet file of embeddings that was made with another model or other settings."""
    before = _stored_facts(file)
    if differing := [name for name in facts if before.get(name) != facts[name]]:
        raise UsageError(
            f"{file} was made with another {' and other '.join(differing)}",
            done="nothing was written",
            hint="give another file for out, or remove this one and its folder of parts",
        )


def _stored_facts(file: Path) -> dict[str, str]:
    """How the embeddings in a Parquet file were made, by its metadata."""
    pa, pq = _pyarrow()
    try:
        schema = pq.read_schema(file)
        schema.field("version")
        result: dict[str, str] = json.loads((schema.metadata or {})[_FACTS])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(
            f"{file} holds no embeddings of zoo", cause=str(error), hint="give another file for out"
        ) from error
    return result


def write_parquet(path: Path, rows: list[Row]) -> Path:
    """Write the rows of embeddings to a Parquet file, whole or not at all.

    Raises:
        UsageError: There are none, or one has a name that is not UTF-8.
    """
    if not rows:
        raise UsageError("there are no embeddings to write")
    try:
        table = _table([(row, 0) for row in rows], {})
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{error.object!r} is not UTF-8, which the text of a Parquet file is", hint="rename the image"
        ) from error
    _write_table(path, table)
    return path


def read_parquet(path: Path) -> tuple[list[str], Tensor, list[str], list[tuple[int, int]]]:
    """Paths, vectors ``[N, D]``, labels and sizes in a Parquet file of embeddings.

    Raises:
        UsageError: It is no such file.
        ZooError: pyarrow is not installed.
    """
    pa, pq = _pyarrow()
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
    return paths, vectors, labels, list(zip(heights, widths, strict=True))


def _pyarrow() -> tuple[Any, Any]:
    """The two modules of pyarrow that Parquet files need."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ZooError("Parquet files need pyarrow", hint="pip install 'zoo-core[embed]'") from error
    return pa, pq
