"""Samples as tensors: augmented by preset, the same whatever the number of workers and wherever a run is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

import zoo_core as zoo
from zoo_lightning.augment import transform_for
from zoo_lightning.coco import size_of, with_visibility

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from torch import nn

    from zoo_lightning.samples import ImageData, Sample


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Dataset that loads images and targets; an index counts on through the epochs and alone decides what is drawn.

    Args:
        samples: What is in it.
        transform: Makes a tensor of an image.
        num_classes: Length of a multi-label target; 0 for a class index.
        seed: Of everything drawn at random.
    """

    def __init__(
        self, samples: Sequence[Sample], transform: Callable[..., Any], num_classes: int = 0, seed: int = 0
    ) -> None:
        self.samples, self.transform, self.num_classes, self.seed = samples, transform, num_classes, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index % len(self.samples)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, index))
            return self.pair(sample)

    def pair(self, sample: Sample) -> tuple[Tensor, Any]:
        """The image as a tensor, and its target."""
        image: Tensor = self.transform(sample.image())
        return image, self._target(sample)

    def _target(self, sample: Sample) -> Tensor:
        if not self.num_classes:
            return torch.tensor(sample.labels[0])
        target = torch.zeros(self.num_classes)
        target[list(sample.labels)] = 1.0
        return target


class BoxDataset(ImageDataset):
    """Load images and the objects in them, as torchvision's detectors take them.

    Args:
        samples: What is in it.
        transform: Changes an image and its target together.
        parts: What a target has beside boxes: ``"masks"``, ``"keypoints"``.
        with_crowds: Whether it has groups too, to measure with.
        seed: Of everything drawn at random.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Callable[..., Any],
        *,
        parts: Collection[str] = (),
        with_crowds: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(samples, transform, seed=seed)
        self.parts, self.with_crowds = parts, with_crowds

    def pair(self, sample: Any) -> tuple[Tensor, Any]:  # noqa: ANN401 - an ObjectSample
        """The image as a tensor, and its target."""
        image = sample.image()
        target = sample.target(size_of(image), self.parts, with_crowds=self.with_crowds)
        return with_visibility(*self.transform(image, target))


class MaskDataset(ImageDataset):
    """Load images and the classes of their pixels, changed together."""

    def pair(self, sample: Any) -> tuple[Tensor, Any]:  # noqa: ANN401 - a MaskSample
        """The image as a tensor, and its mask."""
        image, mask = self.transform(sample.image(), sample.target())
        return image, mask.long()


class WholeMaskDataset(ImageDataset):
    """Dataset that loads validation images as ``zoo.predict`` prepares them, with masks of their full size."""

    def pair(self, sample: Any) -> tuple[Tensor, Any]:  # noqa: ANN401 - a MaskSample
        """The image as a tensor, and its mask."""
        return self.transform(sample.image()), sample.target().as_subclass(Tensor).long()


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
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if _is_distributed() else (0, 1)
        end = self.length if self.seed is None else -(-self.length // world) * world
        return range(rank, end, world)


class EpochBatches(Sampler[list[int]]):
    """The batches to load; a last image that would be alone joins the batch before: batch norm takes no single one.

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


def _is_distributed() -> bool:
    """Whether several processes load the samples together."""
    return distributed.is_available() and distributed.is_initialized()


def mixed_seed(seed: int, number: int) -> int:
    """Seed for loading one sample or epoch, far from those of its neighbours (SplitMix64's finalizer).

    Example:
        >>> mixed_seed(0, 1) != mixed_seed(1, 0)
        True
    """
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + number + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


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


def datasets(data: ImageData, model: nn.Module, *, augment: str, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The datasets to load from: what is trained on, with augmentations, and what is validated with."""
    plain, augmented = (transform_for(model, each, data.task) for each in ("none", augment))
    if data.task == "detection":
        parts = parts_of(model)
        return (
            BoxDataset(data.train, augmented, parts=parts, seed=seed),
            BoxDataset(data.val, plain, parts=parts, with_crowds=True, seed=seed),
        )
    if data.task == "segmentation":
        return MaskDataset(data.train, augmented, seed=seed), WholeMaskDataset(data.val, zoo.transforms(model))
    width = len(data.class_names) if data.multi_label else 0
    return ImageDataset(data.train, augmented, width, seed), ImageDataset(data.val, plain, width, seed)


def parts_of(model: nn.Module) -> frozenset[str]:
    """What a detector learns beside boxes, and its targets are loaded with: ``"masks"``, ``"keypoints"``."""
    found = zoo.anatomy(model)
    has = {"masks": "mask" in {site.role for site in found.heads}, "keypoints": found.keypoints is not None}
    return frozenset(name for name, there in has.items() if there)


def collate_for(task: str) -> Callable[[Any], Any] | None:
    """How loaded samples become a batch: images of different sizes stay apart; None for torch's own way."""
    return _apart if task == "detection" else None


def _apart(batch: Sequence[tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Any]]:
    """Loaded samples as a batch of lists, of images and of targets, for images of different sizes."""
    return [image for image, _ in batch], [target for _, target in batch]


def val_batch(task: str, batch_size: int) -> int:
    """Batch size of a ``DataLoader`` for validation: 1 for segmentation, where each mask keeps its own size."""
    return 1 if task == "segmentation" else batch_size
