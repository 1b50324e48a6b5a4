"""What is trained on: a folder of class folders, a CSV of paths and labels, or a Hugging Face dataset on disk."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo_core as zoo
from zoo_core import errors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called, in lower case, and which side of ours each is."""
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

    def image(self) -> Image | Tensor:
        """The decoded image, as ``zoo.predict`` will read it: upright, and with all its bits.

        Raises:
            ImageError: It is no image, or is truncated.
        """
        return zoo.read_image(self.source)


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
        result = dict.fromkeys(self.class_names, 0)
        for sample in self.train:
            for label in sample.labels:
                result[self.class_names[label]] += 1
        return result


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
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    sides = {each.name: _SIDES[each.name.lower()] for each in folders if each.name.lower() in _SIDES}
    if "train" in sides.values() and (len(set(sides.values())) > 1 or len(sides) == len(folders)):
        parts.notes += [
            f"the folder {each.name} is no split, and was left out" for each in folders if each.name not in sides
        ]
        for name, side in _used(sides, parts.notes).items():
            _read_classes(folder / name, folder, side, parts)
    else:
        _read_classes(folder, folder, "", parts)
    return parts


def _read_classes(root: Path, folder: Path, side: str, parts: _Parts) -> None:
    """The images of the class folders in one folder; what is hidden is left out, as the copies of Jupyter are."""
    loose = 0
    for each in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        if not each.is_dir():
            loose += each.suffix.lower() in SUFFIXES
            continue
        files, others = _files(each)
        name = each.relative_to(folder)
        if not files:
            parts.notes.append(f"the folder {name} has no images, and is no class therefore")
        if others:
            parts.notes.append(f"{len(others)} files in {name} are no images by their names, such as {others[0].name}")
        parts.rows += [(file, (each.name,), side, str(file.relative_to(folder))) for file in files]
    if loose:
        parts.notes.append(f"{loose} images beside the class folders of {root.name} have no class, and were left out")


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and the other files."""
    every = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return (
        [path for path in every if path.suffix.lower() in SUFFIXES],
        [path for path in every if path.suffix.lower() not in SUFFIXES],
    )


def _used(sides: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """The splits that are used, as ``train`` or ``val``: a test split validates where there is no other."""
    if "val" in sides.values():
        notes += [f"the split {name} was left out: it is for testing" for name, side in sides.items() if side == "test"]
        return {name: side for name, side in sides.items() if side != "test"}
    return {name: "val" if side == "test" else side for name, side in sides.items()}


def _side_of(name: str, where: str) -> str:
    """Which side of ours a split is.

    Raises:
        UsageError: It is called otherwise.
    """
    side = name.strip().lower()
    if side and side not in _SIDES:
        raise errors.UsageError(f"{where} has a split {name!r}", expected=", ".join(_SIDES))
    return _SIDES.get(side, "")


def _from_csv(path: Path) -> _Parts:
    rows = _csv_rows(path)
    columns = tuple(rows[0]) if rows else ()
    where, what, split = (_column(columns, names) for names in (_PATHS, _LABELS, _SPLITS))
    if where is None or what is None:
        raise errors.UsageError(
            f"{path} does not say which image has which label",
            expected="a first line with the columns path and label, and commas between them",
            got=", ".join(columns) or "no rows",
        )
    parts = _Parts(multi_label=any(_SEPARATOR in (row[what] or "") for row in rows))
    sides = {(row[split] or "").strip(): _side_of(row[split] or "", str(path)) for row in rows} if split else {"": ""}
    used = _used(sides, parts.notes)
    labels_of: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows, start=2):
        name, side = (row[where] or "").strip(), (row[split] or "").strip() if split else ""
        labels = tuple(dict.fromkeys(each.strip() for each in (row[what] or "").split(_SEPARATOR) if each.strip()))
        if not name or (not labels and not parts.multi_label):
            parts.notes.append(f"{name or f'line {number}'} has no {'label' if name else 'path'}, and was left out")
        elif labels_of.setdefault(name, labels) != labels:
            raise errors.UsageError(
                f"{path} has {name} with the labels {labels_of[name]} and with {labels}",
                hint=f"write all labels of an image in one row, with {_SEPARATOR} between them",
            )
        elif side in used:
            parts.rows.append((path.parent / name, labels, used[side], name))
    if doubled := len(parts.rows) - len({row[3] for row in parts.rows}):
        parts.rows = list({row[3]: row for row in reversed(parts.rows)}.values())[::-1]
        parts.notes.append(f"{doubled} rows name an image again, and were left out")
    return parts


def _csv_rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [dict(row) for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.UsageError(
            f"{path} cannot be read as a table", cause=str(error), hint="save it as CSV in UTF-8"
        ) from error


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
    sides = _used({name: _side_of(name, str(path)) for name in splits}, parts.notes)
    for name in sides:
        split = splits[name]
        image = next((key for key, kind in split.features.items() if isinstance(kind, datasets.Image)), None)
        label = next((key for key, kind in split.features.items() if isinstance(kind, datasets.ClassLabel)), None)
        if image is None or label is None:
            raise errors.UsageError(
                f"the dataset {path} has no images with classes",
                expected="a column of datasets.Image and one of datasets.ClassLabel",
                got=", ".join(f"{key}: {kind}" for key, kind in split.features.items()),
            )
        names, rows = split.features[label], split.cast_column(image, datasets.Image(decode=False))
        for index, row in enumerate(rows):
            if row[image] is None or row[label] is None or row[label] < 0:
                parts.notes.append(f"{name or 'row'} {index} has no image or no label, and was left out")
                continue
            data = row[image]["bytes"] or Path(row[image]["path"])
            parts.rows.append((data, (names.int2str(row[label]),), sides[name], f"{name or 'row'} {index}"))
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
        split = _split_labels if parts.multi_label else _split
        sides = split([sample for sample, _ in sides], val, seed)
    train, held_out = (tuple(sample for sample, side in sides if (side == "val") == wants) for wants in (False, True))
    data = ImageData(train, held_out, class_names, parts.multi_label, tuple(parts.notes))
    if missing := [name for name, count in data.counts().items() if not count]:
        raise errors.UsageError(
            f"no image to train on is left of {', '.join(missing)}",
            cause="; ".join(parts.notes) or "every image of it is in the validation split",
            hint="give each class at least two images that can be read",
        )
    if not held_out:
        raise errors.UsageError(
            f"{path} leaves no image to validate with",
            cause="; ".join(parts.notes) or "no class has two images",
            hint="give a class at least two images that can be read, or write a split val",
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
    except errors.ImageError as error:
        return error.summary.removeprefix(f"{sample.source!s}: ").removeprefix("a bytes: ")
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


def _split_labels(samples: list[Sample], val: float, seed: int) -> list[tuple[Sample, str]]:
    """A share of the images, drawn reproducibly, that leaves each label at least one image to train on."""
    left = Counter(label for sample in samples for label in sample.labels)
    count = max(1, round(val * len(samples)))
    held_out: set[int] = set()
    for sample in random.Random(f"{seed}").sample(samples, len(samples)):  # noqa: S311 - a split is no secret
        if len(held_out) < count and all(left[label] > 1 for label in sample.labels):
            held_out.add(id(sample))
            left.subtract(sample.labels)
    return [(sample, "val" if id(sample) in held_out else "train") for sample in samples]
