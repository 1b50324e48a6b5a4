"""``zoo.embed``: images of any kind to vectors, in memory or in a Parquet file that a run goes on with."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.embedding.embedder import Embedder
from zoo_core.embedding.embeddings import Embeddings, read_embeddings
from zoo_core.embedding.parquet import parquet_path, write_missing
from zoo_core.embedding.shards import images_in, shards_in
from zoo_core.errors import ImageError, UsageError, ZooWarning
from zoo_core.images.loading import Source, sources_of
from zoo_core.recipe.open_model import open_model
from zoo_core.registry.entry_points import plugin_entries
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.paths import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    from zoo_core.embedding.embedder import Engine, Row

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
            that are in it or in its parts already are not read again. Its paths are absolute.
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
    rows = _engine(engine)
    if file is not None:
        failed = dict(write_missing(file, embedder, labelled_sources(images), rows))
        result = read_embeddings(file, embedder, failed=failed)
    else:
        result = _in_memory(embedder, rows(embedder, labelled_sources(images)))
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
    """The embeddings of images from their rows, in memory."""
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
    """The images to embed, each with its label: the folder it is in below the one searched, or its class in a shard.

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
