"""Images and their labels in a CSV: its columns, its rows, and the split of each."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zoo_core import errors
from zoo_lightning.data import Faults, Parts, split_named, used_sides

_PATHS, _LABELS, _SPLITS = ("path", "file", "image", "filename"), ("label", "labels", "class"), ("split", "set")
_REST = "\0"
"""Where fields go that the first line has no name for."""
_SEPARATOR = ";"


def parts_of_csv(path: Path) -> Parts:
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
    parts = Parts(multi_label=any(len(labels) > 1 for labels in labels_in))
    if unused := [column for column in columns if column and column not in (where, what, split)]:
        parts.notes.append(f"columns that are not used: {', '.join(unused)}")
    sides = (
        {(row[split] or "").strip(): split_named(row[split] or "", str(path)) for row in rows} if split else {"": ""}
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
    parts.notes += _without_label(parts)
    where_to = Counter(side for _, _, side, _ in parts.rows)
    if where_to["val"] and where_to[""]:
        parts.notes.append(f"rows without a split, which are trained on: {where_to['']}")
    if doubled := len(parts.rows) - len({row[3] for row in parts.rows}):
        parts.rows = list({row[3]: row for row in reversed(parts.rows)}.values())[::-1]
        parts.notes.append(f"{doubled} repeated {'row was' if doubled == 1 else 'rows were'} left out")
    return parts


def _without_label(parts: Parts) -> Iterator[str]:
    """Notes on the rows of a CSV without any label, where an image may have any number."""
    faults = Faults()
    for _, labels, _, name in parts.rows:
        if not labels:
            faults.add("images without a label, which teach that no label applies", name)
    yield from faults


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
