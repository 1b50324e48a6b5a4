"""``zoo.embed``: images of any kind to vectors, in memory or in a Parquet file that a run goes on with."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.embedding.embeddings import Embeddings, Row
from zoo_core.embedding.fingerprint import digest_of_module
from zoo_core.embedding.shards import images_in, shards_in
from zoo_core.errors import ImageError, UsageError, ZooWarning
from zoo_core.images.loading import Loaded, in_batches, load_images
from zoo_core.images.read import Source, read, sources_of
from zoo_core.images.transforms import transforms
from zoo_core.recipe.open_model import open_model
from zoo_core.registry.entry_points import plugin_entries
from zoo_core.surgery.features.vectors import Vectors
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    Engine = Callable[["Embedder", Iterable[tuple[Source, str]]], Iterator[Row]]

_NAMED_AT_MOST = 3


@strict_arguments
def embed(
    model: nn.Module | str | os.PathLike[str],
    images: Any,  # noqa: ANN401 - whatever people call images
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
        UsageError: ``out`` was made by another model, there is no such engine, or an argument is impossible.

    Warns:
        ZooWarning: Some images could not be read.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> images = [np.zeros((32, 32), dtype=np.uint8), np.full((32, 32), 255, dtype=np.uint8)]
        >>> zoo.embed("tiny/glyphnet", images)
        Embeddings(2 vectors of 64)
    """
    embedder = Embedder.of(
        open_model(model, weights=weights, device=device), size=size, batch_size=batch_size, num_workers=num_workers
    )
    rows = _engine(engine)
    if out is not None:
        from zoo_core.embedding.embeddings import read_embeddings, resume

        failed = dict(resume(Path(out), embedder, labelled_sources(images), rows))
        result = read_embeddings(Path(out), model=embedder.model, failed=failed)
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
    """What gives the rows of images: the ``embed_engine`` of the plugin that is called so.

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
    )


def labelled_sources(images: Any) -> Iterator[tuple[Source, str]]:  # noqa: ANN401 - whatever people call images
    """Images with their labels: the folder of each inside the folder that is searched, or its class in a shard.

    Raises:
        ImageError: A folder or a glob has no images.
    """
    if shards := shards_in(images):
        yield from images_in(shards)
        return
    root = Path(images) if isinstance(images, str | os.PathLike) and Path(images).is_dir() else None
    for source in sources_of(images)[0]:
        inside = Path(source.name).parent.relative_to(root) if root is not None else Path()
        yield source, "" if inside == Path() else inside.as_posix()


@dataclass(frozen=True)
class Embedder:
    """A model that is ready to embed, and how."""

    model: nn.Module
    vectors: Vectors
    prepare: nn.Module
    batch_size: int
    num_workers: int | None

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
            check_count("num_workers", num_workers + 1)
        return cls(model, Vectors(model), transforms(model, size=size), batch_size, num_workers)

    def facts(self) -> dict[str, str]:
        """What the vectors depend on besides the images."""
        return {"backbone": digest_of_module(self.vectors), "transforms": str(self.prepare)}

    def run(self, sources: Iterable[tuple[Source, str]]) -> Iterator[Row]:
        """A row for each image, in order."""
        labels: dict[str, str] = {}

        def named() -> Iterator[Source]:
            for source, label in sources:
                labels[source.name] = label
                yield source

        loaded = load_images(named(), read, self.prepare, num_workers=self.num_workers, ahead=2 * self.batch_size)
        for batch in in_batches(loaded, self.batch_size):
            good = [each for each in batch if each.tensor is not None]
            vectors = iter(self._vectors(good))
            for each in batch:
                result = each.error if each.tensor is None else next(vectors)
                label = labels.pop(each.name, "")
                if isinstance(result, Exception):
                    yield Row(each.name, None, label, error=str(result))
                else:
                    yield Row(each.name, result, label, each.size)

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
        return list(result.clone())
