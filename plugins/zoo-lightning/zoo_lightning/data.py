"""What is trained on: class folders, a CSV, a Hugging Face dataset on disk, COCO annotations, or images and masks."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import errors
from zoo_lightning.coco import find_coco, read_coco
from zoo_lightning.masks import find_masks, read_masks
from zoo_lightning.samples import (
    SUFFIXES,
    ImageData,
    Sample,
    images_in,
    readable,
    require_both,
    shortened,
)
from zoo_lightning.splits import SIDES, divided, used_sides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset

_PATHS, _LABELS, _SPLITS = ("path", "file", "image", "filename"), ("label", "labels", "class"), ("split", "set")
_IMAGES = ("image", "img")
_REST = "\0"
"""Where fields go that the first line has no name for."""
_SEPARATOR = ";"


def read_data(
    source: str | os.PathLike[str], *, val: float = 0.2, seed: int = 0, check: bool = True, workers: int = 4
) -> ImageData:
    """Read the data to train on, of any kind: class folders, a CSV, Hugging Face, COCO, or images and masks.

    Args:
        source: A folder with one folder for each class, or with ``train`` and ``val`` folders of those; a ``.csv`` with
            the columns ``path`` and ``label`` (several labels with ``;`` between them make it multi-label; ``split``
            says ``train`` or ``val``), paths relative to it; or a dataset that ``datasets.save_to_disk`` wrote, with a
            column of ``Image`` and one of ``ClassLabel``, whose order is kept, or of lists of it (multi-label). For
            boxes, outlines and keypoints: a ``.json`` of COCO's format, or a folder with such files, in ``annotations``
            or in the folders of its splits. For a class for each pixel: a folder with ``images`` and ``masks``, or with
            splits of those; masks hold the classes as values, or as indices of a palette, and 255 for none;
            ``classes.txt`` has the names, one a line.
        val: Share of each class to validate with, where the data has no split of its own; from 0 to 1, exclusive.
        seed: Decides which.
        check: Decode each image once, leave out those that cannot be decoded, and name copies.
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
          expected: a folder of class folders, ..., annotations of COCO, or folders of images and masks
          next step: check the path
    """
    path = Path(source).expanduser()
    if not 0 < val < 1:
        raise errors.UsageError(f"val cannot be {val!r}", expected="a share between 0 and 1, such as 0.2")
    try:
        return _read(path, val=val, seed=seed, check=check, workers=workers)
    except OSError as error:  # such as a folder that may not be read, or a name that is too long
        name = error.filename if isinstance(error.filename, str) else str(source)
        raise errors.UsageError(f"{name:.200} cannot be read", cause=error.strerror, hint="check the path") from error


def _read(path: Path, *, val: float, seed: int, check: bool, workers: int) -> ImageData:
    """The data at a path, by its kind."""
    if path.is_file() and path.suffix.lower() == ".csv":
        parts = _from_csv(path)
    elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        parts = _from_hugging_face(path)
    elif files := find_coco(path) if path.is_file() or path.is_dir() else {}:
        return read_coco(path, files, val=val, seed=seed, workers=workers if check else 0)
    elif folders := find_masks(path):
        return read_masks(path, folders, val=val, seed=seed, workers=workers, check=check)
    elif path.is_dir():
        parts = _from_folder(path)
    else:
        raise errors.UsageError(
            f"{path} is not data that can be read" if path.exists() else f"there is no data at {path}",
            expected="a folder of class folders, a .csv of paths and labels, a dataset of Hugging Face on disk, "
            "annotations of COCO, or folders of images and masks",
            hint="give one of these" if path.exists() else "check the path",
        )
    return _assemble(path, parts, val=val, seed=seed, workers=workers if check else 0)


@dataclass
class _Parts:
    """Parts that the data is read as: sources with their class names, and the split each belongs to, if any.

    Classes that come in an order of their own are in ``order``.
    """

    rows: list[tuple[Path | bytes, tuple[str, ...], str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    multi_label: bool = False
    order: tuple[str, ...] = ()


def _from_folder(folder: Path) -> _Parts:
    """Read data in class folders, with or without the folders of splits around them."""
    parts = _Parts()
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    sides = {each.name: SIDES[each.name.lower()] for each in folders if each.name.lower() in SIDES}
    if "train" in sides.values() and (len(set(sides.values())) > 1 or len(sides) == len(folders)):
        parts.notes += [
            f"the folder {each.name} is no split, and was left out" for each in folders if each.name not in sides
        ]
        for name, side in used_sides(sides, parts.notes).items():
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
        files, others = images_in(each)
        name = each.relative_to(folder)
        if not files:
            parts.notes.append(f"the folder {name} has no images, and is no class therefore")
        if others:
            more = ", ..." if len(others) > 1 else ""
            parts.notes.append(
                f"files in {name} that are no images by their names: {len(others)} ({others[0].name}{more})"
            )
        if inside := {file.relative_to(each).parts[0] for file in files if file.parent != each}:
            parts.notes.append(f"folders in {name} whose images are of the class {each.name} too: {len(inside)}")
        parts.rows += [(file, (each.name,), side, str(file.relative_to(folder))) for file in files]
    if loose:
        parts.notes.append(f"images beside the class folders of {root.name}, which were left out: {loose}")


def _split_named(name: str, where: str) -> str:
    """Split of the data, such as train, that the name of one in a folder, CSV or dataset stands for.

    Raises:
        UsageError: It is called otherwise.
    """
    side = name.strip().lower()
    if side and side not in SIDES:
        raise errors.UsageError(f"{where} has a split {name!r}", expected=", ".join(SIDES))
    return SIDES.get(side, "")


def _from_csv(path: Path) -> _Parts:
    """Read data from a CSV of paths and labels."""
    columns, rows = _csv_rows(path)
    where, what, split = (_column(path, columns, names) for names in (_PATHS, _LABELS, _SPLITS))
    if where is None or what is None:
        raise errors.UsageError(
            f"{path} does not say which image has which label",
            expected="a first line with the columns path and label, and commas between them",
            got=", ".join(columns) or "no rows",
        )
    labels_in = [_labels_of(row[what] or "") for row in rows]
    _require_single(path, {label for labels in labels_in for label in labels})
    parts = _Parts(multi_label=any(len(labels) > 1 for labels in labels_in))
    if unused := [column for column in columns if column and column not in (where, what, split)]:
        parts.notes.append(f"columns that are not used: {', '.join(unused)}")
    sides = (
        {(row[split] or "").strip(): _split_named(row[split] or "", str(path)) for row in rows} if split else {"": ""}
    )
    used = used_sides(sides, parts.notes)
    labels_of: dict[str, tuple[str, ...]] = {}
    for number, (row, labels) in enumerate(zip(rows, labels_in, strict=True), start=2):
        name, side = _normalized_name(path, row[where] or ""), (row[split] or "").strip() if split else ""
        if not name or (not labels and not parts.multi_label):
            parts.notes.append(f"{name or f'line {number}'} has no {'label' if name else 'path'}, and was left out")
        elif labels_of.setdefault(name, labels) != labels:
            raise errors.UsageError(
                f"{path} has {name} with the labels {labels_of[name]} and with {labels}",
                hint=f"write all labels of an image in one row, with {_SEPARATOR} between them",
            )
        elif side in used:
            parts.rows.append((path.parent / name, labels, used[side], name))
    if parts.rows and not any(os.path.exists(source) for source, *_ in parts.rows):  # noqa: PTH110 - as above
        raise errors.UsageError(
            f"{path} names {len(parts.rows)} images, and none of them is there",
            expected=f"paths from the folder of the file on, {path.parent}",
            got=parts.rows[0][3],
            hint="move the file beside its images, or write the paths from its folder on",
        )
    where_to = Counter(side for _, _, side, _ in parts.rows)
    if where_to["val"] and where_to[""]:
        parts.notes.append(f"rows without a split, which are trained on: {where_to['']}")
    if doubled := len(parts.rows) - len({row[3] for row in parts.rows}):
        parts.rows = list({row[3]: row for row in reversed(parts.rows)}.values())[::-1]
        parts.notes.append(f"{doubled} repeated {'row was' if doubled == 1 else 'rows were'} left out")
    return parts


def _normalized_name(csv: Path, text: str) -> str:
    """The path relative to the CSV, normalized: an image under two names could be in both splits."""
    text = text.strip()
    if "\\" in text and not os.path.exists(csv.parent / text):  # noqa: PTH110 - pathlib's raises where a name is too long
        text = text.replace("\\", "/")
    name = os.path.normpath(text) if text else ""
    if not os.path.isabs(name):  # noqa: PTH117 - of a text that may be empty
        return name
    folder = os.path.normpath(csv.parent.absolute())
    return os.path.relpath(name, folder) if name.startswith(folder + os.sep) else name


def _csv_rows(path: Path) -> tuple[tuple[str, ...], list[dict[str, str | None]]]:
    """The columns and rows of a CSV; semicolons or tabs separate them where no comma does.

    Raises:
        UsageError: It is no table, or a row has more fields than the first line names.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, restkey=_REST, delimiter=separator, skipinitialspace=True)
            columns, rows = tuple(reader.fieldnames or ()), [dict(row) for row in reader]
            longer = [number for number, row in enumerate(rows, start=1) if any(row.pop(_REST, None) or ())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.UsageError(
            f"{path} cannot be read as a table", cause=str(error), hint="save it as CSV in UTF-8"
        ) from error
    if longer:
        raise errors.UsageError(
            f"row {longer[0]} of {path} has more fields than the first line has names",
            expected=f"{len(columns)}: {', '.join(columns)}",
            hint=f"write quotes around a field with {separator!r} in it, and {_SEPARATOR} between several labels",
        )
    return columns, rows


def _separator(first: str) -> str:
    """What separates the columns of a CSV: what makes the first line name paths and labels, a comma if nothing does."""
    for separator in ",;\t":
        names = {
            name.strip().lower() for name in next(csv.reader([first], delimiter=separator, skipinitialspace=True), ())
        }
        if names.intersection(_PATHS) and names.intersection(_LABELS):
            return separator
    return ","


def _column(where: Path, columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column of a CSV that has one of these names.

    Raises:
        UsageError: Several are.
    """
    several = [column for column in columns if column and column.strip().lower() in names]
    if len(several) > 1:
        raise errors.UsageError(
            f"{where} has the columns {' and '.join(several)}, and any of them could be meant",
            hint="keep one of them, and rename the others",
        )
    return several[0] if several else None


def _labels_of(text: str) -> tuple[str, ...]:
    """The labels of one image in a CSV, between semicolons."""
    return tuple(sorted({label.strip() for label in text.split(_SEPARATOR)} - {""}))


def _label_words(label: str) -> set[str]:
    """The words of a label in a CSV, if it is a list: between commas, bars or slashes, or numbers between spaces."""
    separators = r"\s+" if re.fullmatch(r"\d+(\s+\d+)+", label) else r"[,|/]"
    return {word.strip(" '\"") for word in re.split(separators, label.strip("[]"))}


def _require_single(path: Path, labels: set[str]) -> None:
    """Refuse lists of labels in a CSV that are separated otherwise: each list would become a class.

    A list is in brackets, or all of its words are labels, or words of other lists too: "tench, Tinca tinca" is a class.

    Raises:
        UsageError: There is one.
    """
    words_of = {label: _label_words(label) for label in sorted(labels)}
    uses = Counter(word for words in words_of.values() for word in words)
    for label, words in words_of.items():
        # [unknown] may be a class; numpy writes no commas
        is_list = label[0] + label[-1] == "[]" and re.search(r"[,|'\"]|\d\s+\d|^\[\s*\]$", label)
        if is_list or (len(words) > 1 and all(uses[word] > 1 for word in words)):
            raise errors.UsageError(
                f"{path} has the label {label!r}, which is a list of labels",
                hint=f"write {_SEPARATOR} between several labels, as in {_SEPARATOR.join(sorted(words))}; "
                "or _ in the name of one class",
            )


def _from_hugging_face(path: Path) -> _Parts:
    """Read data from a Hugging Face dataset on disk."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise errors.ZooError(
            "a dataset of Hugging Face needs the package datasets", hint="pip install 'zoo-lightning[huggingface]'"
        ) from error
    try:
        loaded: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever datasets and pyarrow raise of files that are not whole
        cause = f"{type(error).__name__}: {error}"
        raise errors.UsageError(f"{path} cannot be read as a dataset of Hugging Face", cause=cause) from error
    splits: Mapping[str, Any] = loaded if isinstance(loaded, dict) else {"": loaded}
    parts = _Parts()
    sides = used_sides({name: _split_named(name, str(path)) for name in splits}, parts.notes)
    for name, side in sides.items():
        _read_split(splits[name], path, name, side, parts)
    return parts


def _read_split(split: Dataset, path: Path, name: str, side: str, parts: _Parts) -> None:
    """The rows of one split of a Hugging Face dataset; those without an image or a label are left out and named."""
    import datasets

    image = _column_of_kind(path, split, _IMAGES, lambda kind: isinstance(kind, datasets.Image))
    label = _column_of_kind(
        path, split, _LABELS, lambda kind: isinstance(getattr(kind, "feature", kind), datasets.ClassLabel)
    )
    kind = split.features[label]
    names = getattr(kind, "feature", kind)
    parts.multi_label = parts.multi_label or names is not kind
    parts.order = tuple(dict.fromkeys((*parts.order, *names.names)))
    for index, row in enumerate(split.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))):
        numbers = row[label] if names is not kind else [row[label]]
        if row[image] is None or numbers is None or any(each is None or each < 0 for each in numbers):
            parts.notes.append(f"{name or 'row'} {index} has no image or no label, and was left out")
            continue
        data = row[image]["bytes"] or Path(row[image]["path"])
        labels = tuple(names.int2str(each) for each in dict.fromkeys(numbers))
        parts.rows.append((data, labels, side, f"{name or 'row'} {index}"))


def _column_of_kind(path: Path, split: Dataset, preferred: Sequence[str], fits: Callable[[Any], bool]) -> str:
    """Column of a kind in a Hugging Face dataset; of several, the one called as such a column is.

    Raises:
        UsageError: There is none, or several could be meant.
    """
    several = [str(key) for key, kind in split.features.items() if fits(kind)]
    if not several:
        raise errors.UsageError(
            f"the dataset {path} has no images with classes",
            expected="a column of datasets.Image, and one of datasets.ClassLabel or of lists of it",
            got=", ".join(f"{key}: {kind}" for key, kind in split.features.items()),
            hint="dataset.class_encode_column('label') makes classes of numbers or words; save it again",
        )
    named = [key for key in several if key.lower() in preferred]
    if len(several) > 1 and len(named) != 1:
        raise errors.UsageError(
            f"the dataset {path} has the columns {' and '.join(several)}, and any of them could be meant",
            hint=f"keep one: dataset.remove_columns({several[1:]}) removes the others; save it again",
        )
    return (named or several)[0]


def _note_on_alike(class_names: Sequence[str]) -> Iterator[str]:
    """Note on names in the data that look the same, such as Cat and cat."""
    by_look: dict[str, list[str]] = {}
    for name in class_names:
        by_look.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    for names in by_look.values():
        if len(names) > 1:
            yield f"classes whose names look alike, and that are classes of their own: {', '.join(names)}"


def _hint_for_classes(path: Path, class_names: Sequence[str]) -> str:
    """What to do where the data has fewer than two classes: the folder of the classes may be inside the one named."""
    if not path.is_dir():
        return "write more rows"
    for each in (path / name for name in class_names):
        if each.is_dir() and len([inner for inner in each.iterdir() if inner.is_dir()]) > 1:
            return f"if the folders in {each} are the classes, give {each}"
    return "put the images of each class into a folder of its own"


def _assemble(path: Path, parts: _Parts, *, val: float, seed: int, workers: int) -> ImageData:
    """Put together what was read of class folders, a CSV or Hugging Face: classes with images, and both splits."""
    present = {label for _, labels, _, _ in parts.rows for label in labels}
    class_names = tuple(label for label in parts.order or sorted(present) if label in present)
    if unused := [label for label in parts.order if label not in present]:
        parts.notes.append(f"classes without an image, which were left out: {', '.join(unused)}")
    parts.notes += _note_on_alike(class_names)
    if len(class_names) < 2:  # noqa: PLR2004 - one class leaves nothing to learn
        raise errors.UsageError(
            f"{path} has images of {len(class_names) or 'no'} class{'es' * (not class_names)}",
            expected="at least two",
            got=", ".join(class_names) or "no image",
            cause=shortened(parts.notes) or None,
            hint=_hint_for_classes(path, class_names),
        )
    index = {name: place for place, name in enumerate(class_names)}
    sides = [
        (Sample(source, tuple(index[each] for each in labels), name), side) for source, labels, side, name in parts.rows
    ]
    if workers:
        sides = readable(sides, parts.notes, workers)
    train, held_out = divided(sides, val, seed, by_class=not parts.multi_label)
    seen = {label for sample in held_out for label in sample.labels}
    if held_out and (unseen := [name for name, place in index.items() if place not in seen]):
        parts.notes.append(f"no validation image has the label {' or '.join(unseen)}: the score does not cover it")
    data = ImageData(train, held_out, class_names, parts.multi_label, tuple(parts.notes))
    if missing := [name for name, count in data.counts().items() if not count]:
        raise errors.UsageError(
            f"no image to train on is left of {', '.join(missing)}",
            cause="every image of it is in the validation split"
            if seen.issuperset(index[name] for name in missing)
            else shortened(parts.notes),
            hint="give each class at least two images that can be read, and one of them to a split train",
        )
    return require_both(path, data, workers)
