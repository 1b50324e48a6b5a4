"""Datasets of samples as tensors: augmented by preset, the same whatever the number of workers and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import zoo_core as zoo
from zoo_lightning.augment import mixed_seed, transform_for
from zoo_lightning.coco import size_of, with_visibility
from zoo_lightning.detect import parts_of

if TYPE_CHECKING:
    from zoo_lightning.data import ImageData, Sample


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
    """Dataset that loads images and the objects in them, as torchvision's detectors take them.

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

    def pair(self, sample: Any) -> tuple[Tensor, Any]:
        """The image as a tensor, and its target."""
        image = sample.image()
        target = sample.target(size_of(image), self.parts, with_crowds=self.with_crowds)
        return with_visibility(*self.transform(image, target))


class MaskDataset(ImageDataset):
    """Dataset of tensors to train a segmentation on: images and the classes of their pixels, augmented together."""

    def pair(self, sample: Any) -> tuple[Tensor, Any]:
        """The image as a tensor, and its mask."""
        image, mask = self.transform(sample.image(), sample.target())
        return image, mask.long()


class WholeMaskDataset(ImageDataset):
    """Dataset of tensors to validate with: images as ``zoo.predict`` prepares them, and masks of their full size."""

    def pair(self, sample: Any) -> tuple[Tensor, Any]:
        """The image as a tensor, and its mask."""
        return self.transform(sample.image()), sample.target().as_subclass(Tensor).long()


def datasets(data: ImageData, model: nn.Module, *, augment: str, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The two datasets: what is trained on, with augmentations, and what is validated with."""
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
