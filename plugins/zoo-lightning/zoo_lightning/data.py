"""What is trained on: images with what is known of them, their splits, copies, and what is said of those left out."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import zoo_core as zoo
from zoo_core import errors

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

DATA_OF = {
    "classification": "images with classes",
    "detection": "images with boxes",
    "segmentation": "images with masks",
}
"""What data of a task is."""
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called, in lower case, and which side of ours each is."""
_NAMED_AT_MOST = 3
_START = 1 << 16


@dataclass(frozen=True)
class Sample:
    """A sample: one image and its classes.

    Attributes:
        source: A path, or the bytes of an encoded image.
        labels: Indices into the class names; exactly one unless the data is multi-label.
        name: What to call it in a report.
    """

    source: Path | bytes
    labels: tuple[int, ...]
    name: str

    def image(self) -> Image | Tensor:
        """The decoded image, as ``zoo.predict`` will read it: upright, and with all its bits.

        Raises:
            ImageError: It is no image, or is truncated.
        """
        return zoo.read_image(self.source)

    def num_bytes(self) -> int:
        """The size of the encoded image; 0 where there is none."""
        if isinstance(self.source, bytes):
            return len(self.source)
        try:
            return self.source.stat().st_size
        except (OSError, ValueError):
            return 0

    def start(self) -> str:
        """A digest of the first bytes of the encoded image, which tell most images of one size apart."""
        return self._digest(_START)

    def digest(self) -> str:
        """Of the encoded image; empty where it cannot be read."""
        return self._digest(-1)

    def _digest(self, count: int) -> str:
        try:
            with BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb") as file:
                return hashlib.sha256(file.read(count)).hexdigest()
        except (OSError, ValueError):
            return ""

    def counts(self) -> Mapping[int, int]:
        """How much there is of each class: one image, or so many boxes or pixels."""
        return Counter(self.labels)

    def fault(self) -> str:
        """Why the image cannot be used; empty if it can."""
        try:
            self.image()
        except errors.ImageError as error:
            why = error.summary.removeprefix(f"{self.source!s}: ").removeprefix("a bytes: ")
            return f"it cannot be read: {why}"
        return ""


@dataclass(frozen=True)
class ImageData:
    """The samples to train on and to validate with.

    Attributes:
        train: The samples to train on.
        val: The samples to validate with.
        class_names: In the order of the scores; of boxes and masks the first is the background.
        multi_label: Whether an image has any number of classes.
        notes: What was left out, one sentence each.
        task: ``"classification"``, ``"detection"`` or ``"segmentation"``.
        num_keypoints: Keypoints of an object; 0 for none.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False
    notes: tuple[str, ...] = field(default=())
    task: str = "classification"
    num_keypoints: int = 0

    def counts(self) -> dict[str, int]:
        """How many training images each class has; how many boxes, or pixels, where images have those.

        Example:
            >>> ImageData((Sample(b"", (1,), "a"),), (), ("cat", "dog")).counts()
            {'cat': 0, 'dog': 1}
        """
        total: Counter[int] = Counter()
        for sample in self.train:
            total.update(sample.counts())
        first = int(self.task == "detection")  # no box is of the background
        return {name: total[index] for index, name in enumerate(self.class_names) if index >= first}

    def class_weights(self) -> list[float]:
        """Factors of the loss by which all classes count alike; where an image has several, of images with the label.

        Example:
            >>> ImageData((Sample(b"", (0,), "a"), Sample(b"", (1,), "b")), (), ("cat", "dog")).class_weights()
            [1.0, 1.0]
        """
        counts = self.counts()
        total = sum(counts.values()) if self.task == "segmentation" else len(self.train)
        if self.multi_label:
            return [max(total - each, 1) / each for each in counts.values()]
        return [total / (len(counts) * max(each, 1)) for each in counts.values()]


@dataclass
class Parts:
    """Data before it is divided into an ``ImageData``: sources with their class names, and the split of each, if any.

    Classes that come in an order of their own are in ``order``.
    """

    rows: list[tuple[Path | bytes, tuple[str, ...], str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    multi_label: bool = False
    order: tuple[str, ...] = ()


class Faults:
    """What is wrong with the samples of the data, by kind, and where: counted, with a few names.

    Example:
        >>> faults = Faults()
        >>> for name in "abcd":
        ...     faults.add("boxes without area, which were left out", name)
        >>> list(faults)
        ['boxes without area, which were left out: 4 (a, b, c, ...)']
    """

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, name: str) -> None:
        """One more of a kind; the kind says in the plural what is counted, as in "boxes without area"."""
        self._names[kind].append(name)

    def __iter__(self) -> Iterator[str]:
        for kind, names in self._names.items():
            different = [name for name in dict.fromkeys(names) if name]
            more = ", ..." if len(different) > _NAMED_AT_MOST else ""
            shown = f" ({', '.join(different[:_NAMED_AT_MOST])}{more})" if different else ""
            yield f"{kind}: {len(names)}{shown}"


def shortened(notes: Sequence[str]) -> str:
    """Shorten the notes on data left out, as the cause of an error: there may be one for each of a million images.

    Example:
        >>> shortened(["a is no image", "b is no image", "c is no image", "d is no image", "e is no image"])
        'a is no image; b is no image; c is no image; and 2 more'
    """
    more = [f"and {len(notes) - _NAMED_AT_MOST} more"] if len(notes) > _NAMED_AT_MOST else []
    return "; ".join([*notes[:_NAMED_AT_MOST], *more])


def images_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder of data, links to missing files too, and its other files; hidden ones are neither.

    Links to folders are not followed, and are among the others.
    """
    every = [
        path
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink())
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return (
        [path for path in every if path.suffix.lower() in SUFFIXES and not path.is_dir()],
        [path for path in every if path.suffix.lower() not in SUFFIXES or path.is_dir()],
    )


Sides = list[tuple[Sample, str]]
"""Samples, and ``"train"``, ``"val"`` or nothing for each."""


def readable(sides: Sides, notes: list[str], workers: int) -> Sides:
    """Leave out the samples of the data whose images cannot be read; the notes name them."""
    with ThreadPoolExecutor(workers) as pool:  # decoding holds no lock of Python's
        faults = list(pool.map(lambda pair: pair[0].fault(), sides))
    notes += [f"{sample.name} was left out: {why}" for (sample, _), why in zip(sides, faults, strict=True) if why]
    return [pair for pair, why in zip(sides, faults, strict=True) if not why]


def split_named(name: str, where: str) -> str:
    """The split of the data, such as train, that a name stands for.

    Raises:
        UsageError: It is called otherwise.
    """
    side = name.strip().lower()
    if side and side not in SIDES:
        raise errors.UsageError(f"{where} has a split {name!r}", expected=", ".join(SIDES))
    return SIDES.get(side, "")


def used_sides(sides: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """The splits of the data that are used, as ``train`` or ``val``: a test split validates where there is no other."""
    if "val" in sides.values():
        notes += [f"the split {name} was left out: it is for testing" for name, side in sides.items() if side == "test"]
        return {name: side for name, side in sides.items() if side != "test"}
    return {name: "val" if side == "test" else side for name, side in sides.items()}


def divided(sides: Sides, val: float, seed: int, *, by_class: bool) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples into those to train on and those to validate with, drawn where the data has no split."""
    if not any(side == "val" for _, side in sides):
        draw = _split_classes if by_class else _split_labels
        sides = draw([sample for sample, _ in sides], val, seed)
    train, held_out = (tuple(sample for sample, side in sides if (side == "val") == wants) for wants in (False, True))
    return train, held_out


def _split_classes(samples: Sequence[Sample], val: float, seed: int) -> Sides:
    """Split samples: a share of every class, reproducibly, and at least one image of a class that has two."""
    groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.labels].append(sample)
    held_out: set[int] = set()
    for labels, group in sorted(groups.items()):
        order = random.Random(f"{seed} {labels}").sample(group, len(group))  # noqa: S311 - a split is no secret
        held_out.update(id(each) for each in order[: round(val * len(group)) or int(len(group) > 1)])
    return [(sample, "val" if id(sample) in held_out else "train") for sample in samples]


def _split_labels(samples: Sequence[Sample], val: float, seed: int) -> Sides:
    """Split data whose images have any number of labels, reproducibly; each label keeps an image to train on."""
    left = Counter(label for sample in samples for label in set(sample.labels))
    count = max(1, round(val * len(samples)))
    held_out: set[int] = set()
    for sample in random.Random(f"{seed}").sample(samples, len(samples)):  # noqa: S311 - a split is no secret
        if len(held_out) < count and all(left[label] > 1 for label in sample.labels):
            held_out.add(id(sample))
            left.subtract(set(sample.labels))
    return [(sample, "val" if id(sample) in held_out else "train") for sample in samples]


def require_both(path: Path, data: ImageData, workers: int) -> ImageData:
    """The data, if it has samples to train on and to validate with; files that are there twice are named.

    Args:
        path: What the user named.
        data: What was read of it.
        workers: Threads that compare files; 0 for no comparison.

    Raises:
        UsageError: There is not.
    """
    cause = shortened(data.notes)
    if not data.train:
        raise errors.UsageError(f"{path} leaves no image to train on", cause=cause or "it has none that can be used")
    if not data.val:
        raise errors.UsageError(
            f"{path} leaves no image to validate with",
            cause=cause or "no class has two images",
            hint="give a class at least two images that can be read, or write a split val",
        )
    return replace(data, notes=(*data.notes, *(_duplicates(data, workers) if workers else ())))


def _duplicates(data: ImageData, workers: int) -> Iterator[str]:
    """Faults of samples that are there twice, byte for byte."""
    groups = [[(sample, "train") for sample in data.train] + [(sample, "val") for sample in data.val]]
    for key in (Sample.num_bytes, Sample.start, Sample.digest):  # few files are read, and fewer wholly
        groups = _possible_copies(groups, key, workers)
    faults = Faults()
    for (first, first_side), *others in groups:
        for sample, side in others:
            if sorted(sample.labels) != sorted(first.labels):
                faults.add("images that are copies of one with another label", sample.name)
            if side != first_side:
                faults.add("validation images that are trained on too, so that the score is too high", sample.name)
    yield from faults


def _possible_copies(groups: Sequence[Sides], key: Callable[[Sample], object], workers: int) -> list[Sides]:
    """Groups of samples in the data that may be copies of one another: all of one key, which is not empty."""
    with ThreadPoolExecutor(workers) as pool:
        keys = pool.map(key, [sample for sample, _ in chain.from_iterable(groups)])
    parts: dict[tuple[int, object], Sides] = defaultdict(list)
    for number, group in enumerate(groups):
        for pair in group:
            parts[number, next(keys)].append(pair)
    return [part for (_, value), part in parts.items() if value and len(part) > 1]
