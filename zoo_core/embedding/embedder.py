"""A model that is ready to embed: from images to rows, each a vector or the reason why there is none."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.embedding.digests import digest_of_module
from zoo_core.errors import ImageError
from zoo_core.images.loading import Loaded, Source, in_batches, load_images, sources_of
from zoo_core.images.read import read
from zoo_core.images.transforms import transforms
from zoo_core.surgery.features.split import Vectors
from zoo_core.utils.arguments import check_count
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor, nn

    Engine = Callable[["Embedder", Iterable[tuple[Source, str]]], Iterator["Row"]]


@dataclass(frozen=True)
class Row:
    """What an embedder gives for one image: its name, vector, label and size; or the reason why it has none."""

    name: str
    vector: Tensor | None
    label: str = ""
    size: tuple[int, int] = (0, 0)
    error: str = ""


@dataclass(frozen=True)
class Embedder:
    """An embedder: a model that is ready to embed, and how."""

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
        """
        (row,) = self.run((source, "") for source in islice(sources_of(image)[0], 1))
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
