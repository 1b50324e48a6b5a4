"""Images with a class for each pixel: a folder of images, and one of masks whose values are the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from zoo_core import errors
from zoo_lightning.data import (
    SIDES,
    Faults,
    ImageData,
    Sample,
    divided,
    images_in,
    require_both,
    shortened,
    used_sides,
)

IGNORED = 255
"""The value of pixels that belong to no class: they are neither trained on nor measured."""
_IMAGES = ("images", "image", "imgs", "img", "jpegimages")
_MASKS = ("masks", "mask", "annotations", "labels", "segmentationclass", "gt")
_ENDINGS = ("", "_mask", "-mask", "_gt")
_LOSSY = frozenset({".jpe", ".jfif", ".jpeg", ".jpg"})
_DEFAULT = ("background",)
_MAP, _COLORED = 2, 3


@dataclass(frozen=True)
class MaskSample(Sample):
    """A sample from folders of images and masks: an image, and its mask with the class of each pixel.

    Attributes:
        mask: The image file whose values are the classes.
        pixels: Class and number of pixels.
        scale: What the values are divided by: 255 where a mask is black and white.
    """

    mask: Path = field(default=Path(), repr=False)
    pixels: tuple[tuple[int, int], ...] = ()
    scale: int = 1

    def counts(self) -> dict[int, int]:
        """How many pixels there are of each class."""
        return dict(self.pixels)

    def target(self) -> Tensor:
        """The classes ``[H, W]`` of uint8, as a ``tv_tensors.Mask``."""
        values = read_mask(self.mask) // self.scale
        result: Tensor = tv_tensors.Mask(torch.from_numpy(values.astype(np.uint8)))
        return result


def read_mask(path: Path) -> np.ndarray[Any, Any]:
    """The values ``[H, W]`` of a mask: the indices of a palette, not its colors.

    Raises:
        ImageError: It cannot be read, is in colors, or in a format that changes values.
    """
    if path.suffix.lower() in _LOSSY:
        raise errors.ImageError("a mask in JPEG has other values than were written", hint="write PNG", name=str(path))
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise errors.ImageError(f"the mask cannot be read: {error}", name=str(path)) from error
    if values.ndim == _COLORED:
        colors = values[..., : max(1, values.shape[2] - (values.shape[2] in (2, 4)))]
        if (colors != colors[..., :1]).any():
            raise errors.ImageError(
                "the mask is in colors, and which is which class is not known",
                hint="write the class of each pixel as a grey value, or as the index of a palette",
                name=str(path),
            )
        values = colors[..., 0]
    if values.ndim != _MAP or values.dtype.kind not in "bui":
        raise errors.ImageError(f"the mask has values of {values.dtype}, which are no classes", name=str(path))
    return values.astype(np.int64)


def find_masks(path: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and masks of each split; empty where there are none.

    Known are ``images`` and ``masks`` side by side, in the folder of a split, or with folders of splits in them; and
    Pascal VOC's ``JPEGImages`` and ``SegmentationClass``.
    """
    if not path.is_dir():
        return {}
    splits = [each for each in sorted(path.iterdir()) if each.name.lower() in SIDES and each.is_dir()]
    inside = {each.name: pair for each in splits if (pair := _mask_folders(each))}
    if inside or (whole := _mask_folders(path)) is None:
        return inside
    images, masks = whole
    below = [
        each.name for each in sorted(images.iterdir()) if each.name.lower() in SIDES and (masks / each.name).is_dir()
    ]
    return {name: (images / name, masks / name) for name in below} or {"": whole}


def _mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """Folders of images and of masks inside a folder; None where it has not both."""
    by_name = {each.name.lower(): each for each in folder.iterdir() if each.is_dir()}
    images, masks = (next((by_name[name] for name in names if name in by_name), None) for names in (_IMAGES, _MASKS))
    return (images, masks) if images and masks and images_in(masks)[0] else None


def read_masks(
    path: Path, folders: dict[str, tuple[Path, Path]], *, val: float, seed: int, workers: int, check: bool
) -> ImageData:
    """Read images, and from their masks the classes of their pixels.

    Args:
        path: What the user named; its ``classes.txt`` has the name of each class, one a line, from 0 on.
        folders: The folders of images and masks of each split.
        val: Share of the images to validate with, where there is no split.
        seed: Decides which.
        workers: Threads that read each image and mask once; 0 for one.
        check: Name copies of an image.

    Raises:
        UsageError: Nothing is left to train on, or the values are no classes.
    """
    notes: list[str] = []
    faults = Faults()
    listed = _voc_splits(path)
    found: list[tuple[MaskSample, str]] = []
    for name, side in used_sides({each: SIDES.get(each.lower(), "") for each in folders}, notes).items():
        found += [
            (sample, side or listed.get(Path(sample.name).stem, "none" if listed else ""))
            for sample in _pairs(*folders[name], path, faults)
        ]
    if listed:
        notes += [f"images in no list of ImageSets, which were left out: {sum(side == 'none' for _, side in found)}"]
        found = [(sample, side) for sample, side in found if side != "none"]
    with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding holds no lock of Python's
        read = list(pool.map(lambda pair: _checked_mask(pair[0]), found))
    good = [(each, side) for each, (_, side) in zip(read, found, strict=True) if isinstance(each, MaskSample)]
    for each, (sample, _) in zip(read, found, strict=True):
        if isinstance(each, str):
            faults.add(f"images left out, as {each}", sample.name)
    good = _without_white(good, notes)
    names = _mask_classes(path, [sample for sample, _ in good], notes)
    fine = [(sample, side) for sample, side in good if max(sample.labels, default=0) < len(names)]
    for sample, _ in good:
        if (most := max(sample.labels, default=0)) >= len(names):
            faults.add(
                f"images left out, as a mask has the class {most}, and classes.txt names {len(names)}", sample.name
            )
    notes += faults
    train, held_out = divided([*fine], val, seed, by_class=False)
    data = ImageData(train, held_out, names, notes=tuple(notes), task="segmentation")
    return _require_classes(path, data, max(1, workers) if check else 0)


def _pairs(images: Path, masks: Path, root: Path, faults: Faults) -> Iterable[MaskSample]:
    """Images with the mask of the same name."""
    by_stem: dict[str, Path] = {}
    for each in images_in(masks)[0]:
        by_stem.setdefault(str(each.relative_to(masks).with_suffix("")), each)
    used = set()
    for image in images_in(images)[0]:
        stem = str(image.relative_to(images).with_suffix(""))
        mask = next((by_stem[stem + ending] for ending in _ENDINGS if stem + ending in by_stem), None)
        name = str(image.relative_to(root))
        if mask is None:
            faults.add("images without a mask, which were left out", name)
        else:
            used.add(mask)
            yield MaskSample(image, (), name, mask)
    for each in by_stem.values():
        if each not in used:
            faults.add("masks without an image", str(each.relative_to(root)))


def _voc_splits(path: Path) -> dict[str, str]:
    """Split of each image with a mask, where Pascal VOC's lists say so."""
    folder = path / "ImageSets" / "Segmentation"
    files = {side: folder / f"{side}.txt" for side in ("train", "val")}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {name: side for side, file in files.items() for name in file.read_text(encoding="utf-8").split()}


def _checked_mask(sample: MaskSample) -> MaskSample | str:
    """Sample with the classes in its mask counted, or why the mask cannot be used."""
    if fault := sample.fault():
        return fault
    try:
        values = read_mask(sample.mask)
    except errors.ImageError as error:
        return error.summary
    image: Any = sample.image()
    size = tuple(image.shape[-2:]) if isinstance(image, torch.Tensor) else (image.height, image.width)
    if values.shape != size:
        return "a mask is of another size than its image"
    if values.min() < 0 or values.max() > IGNORED:
        return (
            f"a mask has the value {values.max() if values.max() > IGNORED else values.min()}, and classes are 0 to 254"
        )
    counts = [(value, count) for value, count in enumerate(np.bincount(values.ravel()).tolist()) if count]
    pixels = tuple(pair for pair in counts if pair[0] != IGNORED)
    ignored = tuple(pair for pair in counts if pair[0] == IGNORED)
    return replace(sample, labels=tuple(value for value, _ in pixels), pixels=(*pixels, *ignored))


def _without_white(found: Sequence[tuple[MaskSample, str]], notes: list[str]) -> list[tuple[MaskSample, str]]:
    """Masks in black and white: white is the class 1 then, and not what belongs to no class."""
    values = {value for sample, _ in found for value, _ in sample.pixels}
    if values <= {0, IGNORED} and IGNORED in values:
        notes.append("the masks are black and white: white is the class 1")
        return [(_whitened(sample), side) for sample, side in found]
    return [
        (replace(sample, pixels=tuple(pair for pair in sample.pixels if pair[0] != IGNORED)), side)
        for sample, side in found
    ]


def _whitened(sample: MaskSample) -> MaskSample:
    """The sample of a black and white mask, with white as the class 1."""
    pixels = tuple((value // IGNORED, count) for value, count in sample.pixels)
    return replace(sample, labels=tuple(value for value, _ in pixels), pixels=pixels, scale=IGNORED)


def _mask_classes(path: Path, samples: Sequence[MaskSample], notes: list[str]) -> tuple[str, ...]:
    """Class names for masks: those in ``classes.txt``, or numbers up to the highest in a mask."""
    file = path / "classes.txt"
    if file.is_file():
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        if doubled := [name for name, count in Counter(names).items() if count > 1]:
            raise errors.UsageError(f"{file} has the name {doubled[0]!r} twice", expected="another name for each class")
        if len(names) > IGNORED:
            raise errors.UsageError(f"{file} has {len(names)} names", expected=f"at most {IGNORED}")
        return names
    used = {value for sample in samples for value in sample.labels}
    count = max(used, default=0) + 1
    if gaps := sorted(set(range(1, count)) - used):
        shown = f"{gaps[0]}, ..." if len(gaps) > 1 else f"{gaps[0]}"
        notes.append(f"numbers below {count} in no mask, which are classes all the same: {len(gaps)} ({shown})")
    return _DEFAULT + tuple(str(value) for value in range(1, count))


def _require_classes(path: Path, data: ImageData, workers: int) -> ImageData:
    """Refuse folders with masks of one class, and note the classes that no pixel is of.

    Raises:
        UsageError: There is one class, or nothing to train on or to validate with.
    """
    if data.train and len(data.class_names) < 2:  # noqa: PLR2004 - one class leaves nothing to learn
        raise errors.UsageError(
            f"the masks of {path} have one class", expected="at least two values", cause=shortened(data.notes) or None
        )
    if data.train and (missing := [name for name, count in data.counts().items() if not count]):
        note = f"classes without a pixel to train on: {', '.join(missing)}"
        data = replace(data, notes=(*data.notes, note))
    return require_both(path, data, workers)
