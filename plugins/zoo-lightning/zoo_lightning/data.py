"""What is trained on: a folder of class folders, a CSV of paths and labels, or a Hugging Face dataset on disk."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from zoo_core import errors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_VALIDATION = ("val", "valid", "validation", "test")
_PATHS, _LABELS, _SPLITS = ("path", "file", "image", "filename"), ("label", "labels", "class"), ("split", "set")
_SEPARATOR = ";"


@dataclass(frozen=True)
class Sample:
    """One image and its classes.

    Attributes:
        source: A path, or the bytes of an encoded image.
        labels: Indices into the class names; exactly one unless the data is multi-label.
        name: What to call it in a report.
    """

    source: Path | bytes
    labels: tuple[int, ...]
    name: str

    def image(self) -> Image.Image:
        """The decoded image, upright, in RGB.

        Raises:
            OSError: It is no image, or is truncated.
        """
        with self.source.open("rb") if isinstance(self.source, Path) else BytesIO(self.source) as file:
            return ImageOps.exif_transpose(Image.open(file)).convert("RGB")


@dataclass(frozen=True)
class ImageData:
    """Images to train on and to validate with.

    Attributes:
        train: The samples to train on.
        val: The samples to validate with.
        class_names: In the order of the scores.
        multi_label: Whether an image has any number of classes.
        notes: What was left out, one sentence each.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False
    notes: tuple[str, ...] = field(default=())

    def counts(self) -> dict[str, int]:
        """How many training images each class has.

        Example:
            >>> ImageData((Sample(b"", (1,), "a"),), (), ("cat", "dog")).counts()
            {'cat': 0, 'dog': 1}
        """
        found = dict.fromkeys(self.class_names, 0)
        for sample in self.train:
            for label in sample.labels:
                found[self.class_names[label]] += 1
        return found


def read_data(
    source: str | os.PathLike[str], *, val: float = 0.2, seed: int = 0, check: bool = True, workers: int = 4
) -> ImageData:
    """Read images and their classes.

    Args:
        source: A folder with one folder for each class, or with ``train`` and ``val`` folders of those; a ``.csv`` with
            the columns ``path`` and ``label`` (several labels with ``;`` between them make it multi-label; ``split``
            says ``train`` or ``val``), paths relative to it; or a dataset that ``datasets.save_to_disk`` wrote.
        val: Share of each class to validate with, where the data has no split of its own; from 0 to 1, exclusive.
        seed: Decides which.
        check: Decode each image once, and leave out those that cannot be decoded.
        workers: Threads that do so.

    Returns:
        The data; ``notes`` says what was left out.

    Raises:
        UsageError: The source is none of these, or fewer than two classes have images.

    Example:
        >>> read_data("nowhere")
        Traceback (most recent call last):
        ...
        zoo_core.errors.UsageError: there is no data at nowhere
          expected: a folder of class folders, a .csv of paths and labels, or a dataset of Hugging Face on disk
    """
    path = Path(source).expanduser()
    if not 0 < val < 1:
        raise errors.UsageError(f"val cannot be {val!r}", expected="a share between 0 and 1, such as 0.2")
    if path.is_file() and path.suffix.lower() == ".csv":
        parts = _from_csv(path)
    elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        parts = _from_hugging_face(path)
    elif path.is_dir():
        parts = _from_folder(path)
    else:
        raise errors.UsageError(
            f"there is no data at {source}",
            expected="a folder of class folders, a .csv of paths and labels, or a dataset of Hugging Face on disk",
        )
    return _assemble(path, parts, val=val, seed=seed, workers=workers if check else 0)


@dataclass
class _Parts:
    """What a reader finds: sources with the names of their classes, and which split each belongs to, if any."""

    rows: list[tuple[Path | bytes, tuple[str, ...], str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    multi_label: bool = False


def _from_folder(folder: Path) -> _Parts:
    parts = _Parts()
    validation = next((name for name in _VALIDATION if (folder / name).is_dir()), None)
    splits = {"train": "train", validation: "val"} if validation and (folder / "train").is_dir() else {"": ""}
    for name, split in splits.items():
        root = folder / str(name)
        for each in sorted(root.iterdir()):
            if not each.is_dir() or each.name.startswith("."):
                continue
            files = sorted(file for file in each.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not files:
                parts.notes.append(f"the folder {each.relative_to(folder)} has no images, and is no class therefore")
            parts.rows += [(file, (each.name,), split, str(file.relative_to(folder))) for file in files]
    return parts


def _from_csv(path: Path) -> _Parts:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = tuple(rows[0]) if rows else ()
    where, what, split = (_column(columns, names) for names in (_PATHS, _LABELS, _SPLITS))
    if where is None or what is None:
        raise errors.UsageError(
            f"{path} does not say which image has which label",
            expected="a first line with the columns path and label",
            got=", ".join(columns) or "no rows",
        )
    parts = _Parts(multi_label=any(_SEPARATOR in (row[what] or "") for row in rows))
    for row in rows:
        labels = tuple(each.strip() for each in (row[what] or "").split(_SEPARATOR) if each.strip())
        if not labels and not parts.multi_label:
            parts.notes.append(f"{row[where]} has no label, and was left out")
            continue
        side = (row[split] or "").strip().lower() if split else ""
        parts.rows.append((path.parent / row[where], labels, "val" if side in _VALIDATION else side, row[where]))
    return parts


def _column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    return next((column for column in columns if column and column.strip().lower() in names), None)


def _from_hugging_face(path: Path) -> _Parts:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise errors.ZooError(
            "a dataset of Hugging Face needs the package datasets", hint="pip install 'zoo-lightning[huggingface]'"
        ) from error
    loaded: Any = datasets.load_from_disk(str(path))
    splits: Mapping[str, Any] = loaded if isinstance(loaded, dict) else {"": loaded}
    parts = _Parts()
    for name, split in splits.items():
        image = next((key for key, kind in split.features.items() if isinstance(kind, datasets.Image)), None)
        label = next((key for key, kind in split.features.items() if isinstance(kind, datasets.ClassLabel)), None)
        if image is None or label is None:
            raise errors.UsageError(
                f"the dataset {path} has no images with classes",
                expected="a column of datasets.Image and one of datasets.ClassLabel",
                got=", ".join(f"{key}: {kind}" for key, kind in split.features.items()),
            )
        names, rows = split.features[label], split.cast_column(image, datasets.Image(decode=False))
        side = "val" if name in _VALIDATION else name
        for index, row in enumerate(rows):
            data = row[image]["bytes"] or Path(row[image]["path"])
            parts.rows.append((data, (names.int2str(row[label]),), side, f"{name or 'row'} {index}"))
    return parts


def _assemble(path: Path, parts: _Parts, *, val: float, seed: int, workers: int) -> ImageData:
    class_names = tuple(sorted({label for _, labels, _, _ in parts.rows for label in labels}))
    if len(class_names) < 2:  # noqa: PLR2004 - one class leaves nothing to learn
        raise errors.UsageError(
            f"{path} has images of {len(class_names)} classes",
            expected="at least two",
            got=", ".join(class_names) or "no image",
            hint="put the images of each class into a folder of its own",
        )
    index = {name: place for place, name in enumerate(class_names)}
    sides = [
        (Sample(source, tuple(index[each] for each in labels), name), side) for source, labels, side, name in parts.rows
    ]
    if workers:
        sides = _readable(sides, parts.notes, workers)
    if not any(side == "val" for _, side in sides):
        sides = _split([sample for sample, _ in sides], val, seed)
    train, held_out = (tuple(sample for sample, side in sides if (side == "val") == wants) for wants in (False, True))
    data = ImageData(train, held_out, class_names, parts.multi_label, tuple(parts.notes))
    if missing := [name for name, count in data.counts().items() if not count]:
        raise errors.UsageError(
            f"no image to train on is left of {', '.join(missing)}",
            cause="; ".join(parts.notes) or "every image of it is in the validation split",
            hint="give each class at least two images that can be read",
        )
    return data


def _readable(sides: list[tuple[Sample, str]], notes: list[str], workers: int) -> list[tuple[Sample, str]]:
    with ThreadPoolExecutor(workers) as pool:  # decoding holds no lock of Python's
        faults = list(pool.map(lambda pair: _fault(pair[0]), sides))
    notes += [
        f"{sample.name} cannot be read, and was left out: {why}"
        for (sample, _), why in zip(sides, faults, strict=True)
        if why
    ]
    return [pair for pair, why in zip(sides, faults, strict=True) if not why]


def _fault(sample: Sample) -> str:
    try:
        sample.image()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def _split(samples: list[Sample], val: float, seed: int) -> list[tuple[Sample, str]]:
    """A share of every class, drawn reproducibly, and at least one image of a class that has two."""
    groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.labels].append(sample)
    held_out: set[int] = set()
    for labels, group in sorted(groups.items()):
        order = random.Random(f"{seed} {labels}").sample(group, len(group))  # noqa: S311 - a split is no secret
        held_out.update(id(each) for each in order[: round(val * len(group)) or int(len(group) > 1)])
    return [(sample, "val" if id(sample) in held_out else "train") for sample in samples]
