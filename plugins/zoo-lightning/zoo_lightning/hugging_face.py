"""Images and their classes in a Hugging Face dataset on disk, as ``datasets.save_to_disk`` writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import errors
from zoo_lightning.data import Parts, split_named, used_sides

if TYPE_CHECKING:
    from datasets import Dataset

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "class")
"""What such columns are called."""


def parts_of_dataset(path: Path) -> Parts:
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
    parts = Parts()
    sides = used_sides({name: split_named(name, str(path)) for name in splits}, parts.notes)
    for name, side in sides.items():
        _read_split(splits[name], path, name, side, parts)
    return parts


def _read_split(split: Dataset, path: Path, name: str, side: str, parts: Parts) -> None:
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
