"""``zoo.lock``: the exact bytes that a project depends on, as TOML that a diff shows well.

The file is read one ``[[weights]]`` table at a time, so that a mistake in one entry does not lose the others.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import settings
from zoo_core.card import Licenses, Preprocessing, Weights
from zoo_core.errors import LockError
from zoo_core.weights import digest as digests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOCK = "zoo.lock"
VERSION = 1
_TABLE = "[[weights]]"
_HEADER = f"# The exact weights that this project depends on. Written by `zoo lock`.\nversion = {VERSION}\n"


@dataclass(frozen=True)
class Locked:
    """One entry: some weights, and all that is needed to have the same bytes again.

    Attributes:
        name: ``family/name@tag``.
        sha256: The whole digest.
        size: Length in bytes.
        file: The name of the file.
        urls: Where it is, in the order to try.
        plugin: The plugin that described it, with its version.
        library: The library that builds the model, with its version; ``""`` when the plugin does.
        licenses: Of code, weights and data.
        preprocessing: What a picture goes through on its way in.
    """

    name: str
    sha256: str
    size: int
    file: str
    urls: tuple[str, ...]
    plugin: str = ""
    library: str = ""
    licenses: Licenses = field(default_factory=Licenses)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def tag(self) -> str:
        """The tag in the name."""
        return self.name.partition("@")[2]

    def weights(self) -> Weights:
        """The weights that it locks, with nothing left to a plugin."""
        return Weights(self.tag, self.urls, self.sha256, self.size, licenses=self.licenses)


@dataclass(frozen=True)
class Lock:
    """What a lock file says.

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
            raise self.problems[0]
        return self.entries.get(name)


def find_lock(start: Path | None = None) -> Path | None:
    """The lock file to obey: ``ZOO_LOCK``, else a ``zoo.lock`` in this folder or a parent; None when there is none.

    Args:
        start: Where to begin to look; the current folder when None.
    """
    chosen = settings.lock_file()
    if chosen is not None:
        return Path(chosen).expanduser().absolute() if chosen else None
    try:
        here = (start or Path.cwd()).absolute()
    except OSError:  # the current folder has been removed
        return None
    return next((folder / LOCK for folder in (here, *here.parents) if (folder / LOCK).is_file()), None)


def current_lock() -> Lock | None:
    """The lock that is in force here, or None. A file is parsed again only when it changes."""
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
    return read_lock(path)


def read_lock(path: Path) -> Lock:
    """What a lock file says; bad entries are collected, and the good ones kept.

    Raises:
        LockError: The file cannot be read at all, or is of a later version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read", cause=str(error), file=str(path), line=0) from error
    head, *tables = _tables(text)
    _check_version(head[1], path)
    entries: dict[str, Locked] = {}
    problems = []
    for start, table in tables:
        try:
            entry = _entry(table)
            if entry.name in entries:
                problems.append(_malformed(path, start, f"{entry.name!r} is there twice"))
            entries[entry.name] = entry
        except (ValueError, TypeError, KeyError) as error:
            problems.append(_malformed(path, start + _line_in(error), str(error)))
    return Lock(path, entries, tuple(problems))


def _tables(text: str) -> Iterator[tuple[int, str]]:
    """The line and text of what comes before the first entry, and of each entry without its title."""
    start, lines = 1, list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() == _TABLE:
            yield start, "\n".join(lines)
            start, lines = number, []
        else:
            lines.append(line)
    yield start, "\n".join(lines)


def _check_version(head: str, path: Path) -> None:
    import tomllib

    try:
        version = tomllib.loads(head).get("version")
    except tomllib.TOMLDecodeError as error:
        raise _malformed(path, _line_in(error), str(error)) from error
    if version != VERSION:
        raise LockError(
            f"{path}, line 1: version {version!r}",
            expected=f"version = {VERSION}",
            cause="it was written by a later zoo, or is no lock file",
            hint="update zoo-core",
            file=str(path),
            line=1,
        )


def _entry(text: str) -> Locked:
    import tomllib

    values: dict[str, Any] = tomllib.loads(text)
    known = {item.name for item in dataclasses.fields(Locked)}
    if missing := [name for name in ("name", "sha256", "size", "file", "urls") if name not in values]:
        msg = f"missing: {', '.join(missing)}"
        raise ValueError(msg)
    if unknown := [name for name in values if name not in known]:
        msg = f"unknown: {', '.join(unknown)}"
        raise ValueError(msg)
    for name in ("name", "sha256", "file", "plugin", "library"):
        if not isinstance(values.get(name, ""), str):
            msg = f"{name} must be a text"
            raise TypeError(msg)
    _check_values(values)
    preprocessing = {key: _tupled(value) for key, value in dict(values.pop("preprocessing", {})).items()}
    licenses = Licenses(**values.pop("licenses", {}))
    return Locked(
        **{**values, "urls": tuple(values["urls"])}, licenses=licenses, preprocessing=Preprocessing(**preprocessing)
    )


def _check_values(values: dict[str, Any]) -> None:
    size, urls = values.get("size"), values.get("urls")
    if "/" not in values["name"] or "@" not in values["name"]:
        msg = f"name must be 'family/name@tag', not {values['name']!r}"
        raise ValueError(msg)
    if not digests.is_full(values["sha256"]):
        msg = f"sha256 must be 64 lower-case hex digits, not {values['sha256']!r}"
        raise ValueError(msg)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        msg = f"size must be a length in bytes, not {size!r}"
        raise ValueError(msg)
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        msg = "urls must be a list of texts"
        raise ValueError(msg)


def _tupled(value: Any) -> Any:  # noqa: ANN401 - any value of TOML
    return tuple(value) if isinstance(value, list) else value


def _line_in(error: Exception) -> int:
    """How far below the title of its table an error is."""
    words = str(error).partition("(at line ")[2]
    digits = words.partition(",")[0]
    return int(digits) if digits.isdigit() else 0


def _malformed(path: Path, line: int, reason: str) -> LockError:
    return LockError(
        f"{path}, line {max(line, 1)}: not an entry of a lock",
        cause=reason,
        done="the other entries still count",
        hint="`zoo lock NAME` writes it anew",
        file=str(path),
        line=max(line, 1),
    )


def write_lock(path: Path, entries: Iterable[Locked]) -> None:
    """Write a lock file, sorted by name, whole or not at all.

    Raises:
        LockError: The folder cannot be written.
    """
    tables = [_table(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text("\n".join([_HEADER, *tables]), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise LockError(f"{path} cannot be written", got=error.strerror, file=str(path), line=0) from error


def _table(entry: Locked) -> str:
    lines = [_TABLE]
    for item in dataclasses.fields(entry):
        value = getattr(entry, item.name)
        if item.name == "urls":
            lines += ["urls = [", *(f"    {_value(url)}," for url in value), "]"]
        elif value != "" or item.name not in ("plugin", "library"):
            lines.append(f"{item.name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:  # noqa: ANN401 - any value that an entry has
    """A value as TOML: JSON spells texts, numbers and lists in the same way."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ", ".join(f"{name} = {_value(item)}" for name, item in dataclasses.asdict(value).items())
        return f"{{ {items} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
