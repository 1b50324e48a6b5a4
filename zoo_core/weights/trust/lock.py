"""``zoo.lock``: the exact bytes that a project depends on, as TOML that a diff shows well.

A mistake in one entry does not lose the others: where the file as a whole is no TOML, each table is read by itself.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo_core import settings
from zoo_core.contract.card import Licenses, Preprocessing, Weights
from zoo_core.errors import LockError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import write_anew
from zoo_core.utils.paths import and_above, expand, is_file
from zoo_core.utils.private_files import believed
from zoo_core.weights import digest as digests

_NAME = re.compile(r"[^/]+/[^@]+@.+", re.DOTALL)


@dataclass(frozen=True)
class Locked:
    """One entry of the lock: some weights, and all that is needed to have the same bytes again.

    Attributes:
        name: ``family/name@tag``.
        sha256: The whole digest.
        size: Length in bytes.
        file: The name of the file.
        urls: Where it is, in the order to try.
        plugin: The plugin that described it, with its version.
        library: The library that builds the model, with its version; ``""`` when the plugin does.
        licenses: Of code, weights and data.
        preprocessing: What an image goes through on its way in; None where the lock does not say.
        outputs: What the model gives on the CPU for a generated image, where that was measured.
    """

    name: str
    sha256: str
    size: int
    file: str
    urls: tuple[str, ...]
    plugin: str = ""
    library: str = ""
    licenses: Licenses = field(default_factory=Licenses)
    preprocessing: Preprocessing | None = None
    outputs: tuple[float, ...] = ()

    @property
    def tag(self) -> str:
        """The tag in the name."""
        return self.name.partition("@")[2]

    def weights(self) -> Weights:
        """The weights that it locks, with nothing left to a plugin."""
        preprocessing = self.preprocessing or Preprocessing()
        return Weights(self.tag, self.urls, self.sha256, self.size, licenses=self.licenses, preprocessing=preprocessing)


def _entry_of(table: dict[str, Any]) -> Locked:
    """The entry that a table of ``zoo.lock`` describes.

    Raises:
        ValueError: A value is missing, unknown or not what it should be.
        TypeError: One is of another type.
    """
    values = dict(table)
    known = {item.name for item in dataclasses.fields(Locked)}
    if missing := [name for name in ("name", "sha256", "size", "file", "urls") if name not in values]:
        raise ValueError(f"missing: {', '.join(missing)}")
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    for name in ("name", "sha256", "file", "plugin", "library"):
        if not isinstance(values.get(name, ""), str):
            raise TypeError(f"{name} must be a text")
    _check_values(values)
    described = values.pop("preprocessing", None)
    given = dict(described or {}).items()
    preprocessing: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given}
    if preprocessing.get("crop") == ():  # TOML has no null
        preprocessing["crop"] = None
    licenses = Licenses(**values.pop("licenses", {}))
    if not all(isinstance(value, str) for value in dataclasses.astuple(licenses)):
        raise TypeError("licenses must be texts")
    return Locked(
        **{**values, "urls": tuple(values["urls"]), "outputs": tuple(values.get("outputs", ()))},
        licenses=licenses,
        preprocessing=None if described is None else Preprocessing(**preprocessing),
    )


def _check_values(values: dict[str, Any]) -> None:
    """Refuse an entry of a lock file in which a value is not what it should be."""
    size, urls = values.get("size"), values.get("urls")
    if not _NAME.fullmatch(values["name"]):
        raise ValueError(f"name must be 'family/name@tag', not {values['name']!r}")
    if not digests.is_full(values["sha256"]):
        raise ValueError(f"sha256 must be 64 lower-case hex digits, not {values['sha256']!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"size must be a length in bytes, not {size!r}")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) and url for url in urls):
        raise ValueError("urls must be a list of texts")
    for url in urls:
        urlsplit(url)
    outputs = values.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(each, int | float) for each in outputs):
        raise ValueError("outputs must be a list of numbers")


def _table_of(entry: Locked) -> str:
    """The table of an entry as the text of a lock file."""
    lines = ["[[weights]]"]
    for item in dataclasses.fields(entry):
        value = getattr(entry, item.name)
        if item.name == "urls":
            lines += ["urls = [", *(f"    {_value(url)}," for url in value), "]"]
        elif value is not None and (value not in ("", ()) or item.name not in ("plugin", "library", "outputs")):
            lines.append(f"{item.name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value of a lock file as TOML: JSON spells texts, numbers and lists in the same way."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = dataclasses.asdict(value)
        items = ", ".join(f"{name} = {_value([] if item is None else item)}" for name, item in given.items())
        return f"{{ {items} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


LOCK = "zoo.lock"
VERSION = 1
_TABLE = re.compile(r"\s*\[\[\s*weights\s*\]\]\s*(#.*)?")
_MARKER = re.compile(r"<{7} |={7}$|>{7} |\|{7} ")
_HEADER = f"# The exact weights that this project depends on. Written by `zoo lock`.\nversion = {VERSION}\n"


@dataclass(frozen=True)
class Lock:
    """What ``zoo.lock`` says: the good entries by name, and what is wrong with the others.

    Attributes:
        path: The file.
        entries: The good entries by name.
        problems: What is wrong with the others.
    """

    path: Path
    entries: dict[str, Locked]
    problems: tuple[LockError, ...] = ()

    def find(self, name: str) -> Locked | None:
        """The entry of that name, or None when the project does not lock it.

        Raises:
            LockError: It is not among the good entries, and there are bad ones that may have been it.
        """
        if name not in self.entries and self.problems:
            raise next(
                (problem for problem in self.problems if getattr(problem, "entry", None) == name), self.problems[0]
            )
        return self.entries.get(name)


def held_tag(model: str, default: str | None) -> str | None:
    """The tag that the bare name of a model means under the lock, even where the default has moved since.

    Args:
        model: ``family/name``.
        default: The tag that its card has for the default now.

    Raises:
        LockError: Several are locked, of which none is the default.
    """
    lock = current_lock()
    tags = [entry.tag for entry in lock.entries.values() if entry.name.startswith(f"{model}@")] if lock else []
    if lock is None or not tags or default in tags:
        return default
    if len(tags) == 1:
        return tags[0]
    raise LockError(
        f"{model} without a tag may mean several weights that are locked: {', '.join(sorted(tags))}",
        cause=f"its plugin has another default by now, {default}",
        hint=f"say which, as in {model}@{min(tags)}, or lock the new default with `zoo lock {model}`",
        file=str(lock.path),
        line=0,
    )


def require_preprocessing(locked: Locked | None, weights: Weights) -> None:
    """Refuse weights whose preprocessing is another than the lock has for them.

    Raises:
        LockError: They are; the message says what differs.
    """
    if locked is None or locked.preprocessing in (None, weights.preprocessing):
        return
    before, now = dataclasses.asdict(locked.preprocessing), dataclasses.asdict(weights.preprocessing)
    differs = [name for name in now if before[name] != now[name]]
    raise LockError(
        f"the preprocessing of {locked.name} is not the one that was locked",
        expected=", ".join(f"{name}={before[name]!r}" for name in differs),
        got=", ".join(f"{name}={now[name]!r}" for name in differs),
        cause=f"it was locked with {locked.plugin or 'another version of its plugin'}",
        done="nothing was loaded: right weights on images that are prepared otherwise give wrong answers",
        hint=f"install that version again, or accept the new one with `zoo lock {locked.name}`",
        file="",
        line=0,
    )


def find_lock() -> Path | None:
    """The lock file to obey: ``ZOO_LOCK``, else a ``zoo.lock`` in this folder or a parent; None when there is none."""
    chosen = settings.lock_file()
    if chosen is not None:
        return expand(chosen).absolute() if chosen else None
    result = (folder / LOCK for folder in and_above() if is_file(folder / LOCK))
    return next((path for path in result if believed(str(path), "ZOO_LOCK")), None)


def current_lock() -> Lock | None:
    """The ``zoo.lock`` that is in force here, or None. A file is parsed again only when it changes."""
    path = find_lock()
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise LockError(f"{path} cannot be read", got=error.strerror, file=str(path), line=0) from error
    return _cached(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _cached(path: Path, _mtime: int, _size: int) -> Lock:
    """What a lock file of that time and size says, parsed once."""
    return read_lock(path)


def read_lock(path: Path) -> Lock:
    """What a lock file says; bad entries are collected, and the good ones kept.

    Raises:
        LockError: The file cannot be read at all, or is of a later version.
    """
    try:
        text = no_follow.read_text(no_follow.real(path))  # a lock may be a link of its user's
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read", cause=str(error), file=str(path), line=0) from error
    _refuse_conflict(text, path)
    tables, problems = _tables(text, path)
    entries: dict[str, Locked] = {}
    twice = set()
    for start, table in tables:
        try:
            entry = _entry_of(table)
        except (ValueError, TypeError) as error:
            problems.append(_malformed(path, start, str(error), table.get("name")))
            continue
        if entry.name in entries:
            twice.add(entry.name)
            problems.append(_malformed(path, start, f"{entry.name!r} is there twice", entry.name))
        entries[entry.name] = entry
    good = {name: entry for name, entry in entries.items() if name not in twice}
    return Lock(path, good, tuple(problems))


def _refuse_conflict(text: str, path: Path) -> None:
    """Refuse a lock file with a merge conflict: an entry between the markers of git may be either side's."""
    markers = [number for number, line in enumerate(text.split("\n"), start=1) if _MARKER.match(line)]
    if markers:
        raise LockError(
            f"{path}, line {markers[0]}: a merge conflict that is not resolved",
            got=f"markers on lines {', '.join(map(str, markers[:12]))}",
            cause="two branches locked different weights",
            hint="remove the lines of the markers and keep the entries of both sides, one of each name",
            file=str(path),
            line=markers[0],
        )


def _tables(text: str, path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[LockError]]:
    """The line and values of each entry in a lock file, and what is wrong with the rest of it."""
    try:
        head = settings.toml(text)
    except RecursionError as error:
        raise _malformed(path, 1, "it is nested too deeply", hides_all=True) from error
    except ValueError as error:  # no TOML, or an integer of thousands of digits
        return _tables_one_by_one(text, path, error)
    tables = head.pop("weights", [])
    _check_head(head, path)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _malformed(path, 1, "weights must be tables, each titled [[weights]]", hides_all=True)
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if _TABLE.fullmatch(line)]
    return list(zip(lines if len(lines) == len(tables) else [1] * len(tables), tables, strict=True)), []


def _tables_one_by_one(
    text: str, path: Path, whole: ValueError
) -> tuple[list[tuple[int, dict[str, Any]]], list[LockError]]:
    """The tables of a lock file that are good TOML by themselves, where the whole is not."""
    (_, head), *pieces = _pieces(text)
    try:
        before = settings.toml(head)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, _line_in(error), str(error), hides_all=True) from error
    _check_head(before, path)
    tables, problems = [], []
    for start, piece in pieces:
        try:
            tables.append((start, settings.toml(piece)))
        except (ValueError, RecursionError) as error:
            problems.append(_malformed(path, start + _line_in(error), str(error), _name_in(piece)))
    return tables, problems or [_malformed(path, _line_in(whole), str(whole))]


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The pieces of a lock file, with their lines: what is before the first entry, and each entry without its title."""
    start, lines = 1, list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        if _TABLE.fullmatch(line):
            yield start, "\n".join(lines)
            start, lines = number, []
        else:
            lines.append(line)
    yield start, "\n".join(lines)


def _name_in(piece: str) -> str | None:
    """The name of the weights in the text of a broken entry of a lock file, if it can be read."""
    match = re.search(r'^name = "([^"\\]*)"$', piece, re.MULTILINE)
    return match[1] if match else None


def _check_head(head: dict[str, Any], path: Path) -> None:
    """Refuse a lock file of a later version, or with something before its entries that is unknown."""
    version = head.get("version")
    if version != VERSION or isinstance(version, bool):
        has_version = version is not None
        raise LockError(
            f"{path}, line 1: {f'version {version!r}' if has_version else 'no version'}",
            expected=f"version = {VERSION}",
            cause="it was written by a later zoo, or is no lock file" if has_version else "it is no whole lock file",
            hint="update zoo-core" if has_version else "take it from version control, or delete it and `zoo lock` anew",
            file=str(path),
            line=1,
        )
    if unknown := [name for name in head if name != "version"]:
        raise _malformed(path, 1, f"unknown: {', '.join(unknown)}; an entry is titled [[weights]]", hides_all=True)


def _line_in(error: Exception) -> int:
    """How far below the title of its table in a lock file an error is."""
    words = str(error).partition("(at line ")[2]
    digits = words.partition(",")[0]
    return int(digits) if digits.isdigit() else 0


def _malformed(path: Path, line: int, reason: str, entry: object = None, *, hides_all: bool = False) -> LockError:
    """The error for a malformed entry of a lock file, with its line; outside of the entries, it hides all of them."""
    whole = "mend it, or take it from version control, or delete it and `zoo lock` anew"
    return LockError(
        f"{path}, line {max(line, 1)}: not {'a lock file' if hides_all else 'an entry of a lock'}",
        cause=reason,
        hint=whole if hides_all else "mend it or remove it; `zoo lock NAME` writes an entry anew",
        file=str(path),
        line=max(line, 1),
        entry=entry,
    )


def write_lock(path: Path, entries: Iterable[Locked]) -> None:
    """Write a lock file, sorted by name, whole or not at all.

    Raises:
        LockError: The folder cannot be written.
    """
    tables = [_table_of(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    place = no_follow.real(path)
    if path.is_symlink() and not place.exists() and place.name != path.name:
        raise LockError(
            f"{path} is a link to {place}, where there is no lock",
            done="nothing was written",
            hint="remove the link, after a look at who put it there",
            file=str(path),
            line=0,
        )
    try:
        write_anew(place, "\n".join([_HEADER, *tables]))  # of a linked lock, what the link stands for
    except OSError as error:
        raise LockError(f"{path} cannot be written", got=error.strerror, file=str(path), line=0) from error
