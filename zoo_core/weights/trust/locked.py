"""One entry of ``zoo.lock``: what it holds, how it is checked, and how it is written."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from zoo_core.contract.card import Licenses, Preprocessing, Weights
from zoo_core.weights import digest as digests

_NAME = re.compile(r"[^/]+/[^@]+@.+", re.DOTALL)


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
        preprocessing: What an image goes through on its way in.
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
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    outputs: tuple[float, ...] = ()

    @property
    def tag(self) -> str:
        """The tag in the name."""
        return self.name.partition("@")[2]

    def weights(self) -> Weights:
        """The weights that it locks, with nothing left to a plugin."""
        return Weights(self.tag, self.urls, self.sha256, self.size, licenses=self.licenses)


def entry_of(table: dict[str, Any]) -> Locked:
    """The entry that a table of a lock file describes.

    Raises:
        ValueError: A value is missing, unknown or not what it should be.
        TypeError: One is of another type.
    """
    values = dict(table)
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
    if not all(isinstance(value, str) for value in dataclasses.astuple(licenses)):
        msg = "licenses must be texts"
        raise TypeError(msg)
    return Locked(
        **{**values, "urls": tuple(values["urls"]), "outputs": tuple(values.get("outputs", ()))},
        licenses=licenses,
        preprocessing=Preprocessing(**preprocessing),
    )


def _check_values(values: dict[str, Any]) -> None:
    size, urls = values.get("size"), values.get("urls")
    if not _NAME.fullmatch(values["name"]):
        msg = f"name must be 'family/name@tag', not {values['name']!r}"
        raise ValueError(msg)
    if not digests.is_full(values["sha256"]):
        msg = f"sha256 must be 64 lower-case hex digits, not {values['sha256']!r}"
        raise ValueError(msg)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        msg = f"size must be a length in bytes, not {size!r}"
        raise ValueError(msg)
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) and url for url in urls):
        msg = "urls must be a list of texts"
        raise ValueError(msg)
    for url in urls:
        urlsplit(url)
    outputs = values.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(each, int | float) for each in outputs):
        msg = "outputs must be a list of numbers"
        raise ValueError(msg)


def _tupled(value: Any) -> Any:  # noqa: ANN401 - any value of TOML
    return tuple(value) if isinstance(value, list) else value


def table_of(entry: Locked) -> str:
    """The table of an entry, as text."""
    lines = ["[[weights]]"]
    for item in dataclasses.fields(entry):
        value = getattr(entry, item.name)
        if item.name == "urls":
            lines += ["urls = [", *(f"    {_value(url)}," for url in value), "]"]
        elif value not in ("", ()) or item.name not in ("plugin", "library", "outputs"):
            lines.append(f"{item.name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:  # noqa: ANN401 - any value that an entry has
    """A value as TOML: JSON spells texts, numbers and lists in the same way."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ", ".join(f"{name} = {_value(item)}" for name, item in dataclasses.asdict(value).items())
        return f"{{ {items} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
