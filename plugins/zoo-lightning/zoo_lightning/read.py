"""``read_data``: class folders, a CSV, a Hugging Face dataset on disk, COCO annotations, or images and masks."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo_core import errors
from zoo_lightning.coco import find_coco, read_coco
from zoo_lightning.csv_table import parts_of_csv
from zoo_lightning.data import (
    SIDES,
    SUFFIXES,
    ImageData,
    Parts,
    Sample,
    divided,
    images_in,
    readable,
    require_both,
    shortened,
    used_sides,
)
from zoo_lightning.hugging_face import parts_of_dataset
from zoo_lightning.mask_folders import find_masks, read_masks


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
    """Read the data at a path, by its kind."""
    if path.is_file() and path.suffix.lower() == ".csv":
        parts = parts_of_csv(path)
    elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        parts = parts_of_dataset(path)
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


def _from_folder(folder: Path) -> Parts:
    """Read data in class folders, with or without the folders of splits around them."""
    parts = Parts()
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


def _read_classes(root: Path, folder: Path, side: str, parts: Parts) -> None:
    """Read the class folders in one folder; what is hidden is left out, as the copies of Jupyter are."""
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


def _assemble(path: Path, parts: Parts, *, val: float, seed: int, workers: int) -> ImageData:
    """The ``ImageData`` of parts that were read: classes with images, and both splits."""
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


def _note_on_alike(class_names: Sequence[str]) -> Iterator[str]:
    """Note on names in the data that look the same, such as Cat and cat."""
    by_look: dict[str, list[str]] = {}
    for name in class_names:
        by_look.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    for names in by_look.values():
        if len(names) > 1:
            yield f"classes whose names look alike, and that are classes of their own: {', '.join(names)}"


def _hint_for_classes(path: Path, class_names: Sequence[str]) -> str:
    """Hint for data of fewer than two classes: their folders may be inside a folder of the one named."""
    if not path.is_dir():
        return "write more rows"
    for each in (path / name for name in class_names):
        if each.is_dir() and len([inner for inner in each.iterdir() if inner.is_dir()]) > 1:
            return f"if the folders in {each} are the classes, give {each}"
    return "put the images of each class into a folder of its own"
