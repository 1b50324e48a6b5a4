"""Batches of samples for Lightning: samplers that know epochs and processes, and the data loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Sampler

from zoo_lightning.augment import mixed_seed
from zoo_lightning.datasets import datasets

if TYPE_CHECKING:
    from zoo_lightning.data import ImageData


class EpochSampler(Sampler[int]):
    """Sampler of a ``DataLoader``: all samples once an epoch, in the epoch's order, of which each process loads a part.

    Batches of several processes hold together what one process would see in a batch as large as theirs together.

    Args:
        length: Samples of the dataset.
        seed: Decides the order; None keeps it, for validation.

    Example:
        >>> sampler = EpochSampler(4, seed=0)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(first), sorted(sampler)
        ([0, 1, 2, 3], [4, 5, 6, 7])
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; Lightning does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._indices_to_load())

    def __iter__(self) -> Iterator[int]:
        places = self._indices_to_load()
        if self.seed is None:
            yield from places
            return
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        yield from (self.epoch * self.length + order[place % self.length] for place in places)

    def _indices_to_load(self) -> range:
        """Indices of the samples that this process loads, every world-size-th; in training all have equally many."""
        is_shared = distributed.is_available() and distributed.is_initialized()
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if is_shared else (0, 1)
        end = self.length if self.seed is None else -(-self.length // world) * world
        return range(rank, end, world)


class EpochBatches(Sampler[list[int]]):
    """Sampler of the batches of a ``DataLoader``; a last image joins the batch before: batch norm takes no single one.

    Args:
        sampler: Of the images.
        batch_size: Images of a batch.

    Example:
        >>> [len(batch) for batch in EpochBatches(EpochSampler(9, seed=0), 4)]
        [4, 5]
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 1 or (rest == 1 and not full))

    def __iter__(self) -> Iterator[list[int]]:
        places = list(self.sampler)
        for number in range(count := len(self)):
            end = (number + 1) * self.batch_size if number < count - 1 else len(places)
            yield places[number * self.batch_size : end]


def loaders(
    data: ImageData, model: nn.Module, *, augment: str, batch_size: int, workers: int, seed: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The ``DataLoader`` of batches to train on, and that of those to validate with.

    Args:
        data: From :func:`zoo_lightning.read_data`.
        model: Whose preprocessing is used.
        augment: The preset for training.
        batch_size: Images of a batch, on each process.
        workers: Processes that decode images.
        seed: Of the order and of the augmentations.
    """
    train, val = datasets(data, model, augment=augment, seed=seed)
    loading: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "collate_fn": collate_for(data.task),
    }
    return (
        DataLoader(train, batch_sampler=EpochBatches(EpochSampler(len(train), seed), batch_size), **loading),
        DataLoader(val, sampler=EpochSampler(len(val), None), batch_size=val_batch(data.task, batch_size), **loading),
    )


def collate_for(task: str) -> Callable[[Any], Any] | None:
    """How a ``DataLoader`` makes a batch of samples: images of different sizes stay apart; None for torch's own way."""
    return _apart if task == "detection" else None


def _apart(batch: Sequence[tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Any]]:
    """Samples as a batch of a ``DataLoader`` in lists, of images and of targets, for images of different sizes."""
    return [image for image, _ in batch], [target for _, target in batch]


def val_batch(task: str, batch_size: int) -> int:
    """Batch size of a ``DataLoader`` for validation: 1 for segmentation, where each mask keeps its own size."""
    return 1 if task == "segmentation" else batch_size
