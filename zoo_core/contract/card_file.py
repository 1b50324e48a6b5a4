"""Cards in a file: one JSON record a line, read one by one, so that listing a thousand models parses none."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from zoo_core.contract.card import Card, Licenses, Preprocessing, Weights
from zoo_core.errors import CatalogError, ZooWarning

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def scan_cards(path: Path | Traversable) -> tuple[list[Card], list[CatalogError]]:
    """The cards in a file, and what is wrong with the other lines: each problem names file, line and reason.

    Raises:
        CatalogError: The file cannot be read at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path} cannot be read", cause=str(error), file=str(path), line=0) from error
    cards, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                cards.append(card_in_line(line, path, number))
            except CatalogError as problem:
                problems.append(problem)
    return cards, problems


def card_in_line(line: str | bytes, path: Path | Traversable, number: int) -> Card:
    """The card in one line of a file.

    Raises:
        CatalogError: It is not one; the message names file, line and reason.
    """
    try:
        return card_from_record(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"{path}, line {number}: not a card"
        raise CatalogError(msg, cause=str(error), file=str(path), line=number) from error


def write_cards(path: Path, cards: Iterable[Card]) -> None:
    """Write cards to a file, one a line; what equals its default is left out.

    Args:
        path: The file to write.
        cards: What to write, in this order.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "catalog.jsonl")
        >>> write_cards(file, [Card(family="acme", name="net", build="acme:net")])
        >>> print(file.read_text(), end="")
        {"family": "acme", "name": "net", "build": "acme:net"}
    """
    lines = (json.dumps(card_to_record(card), ensure_ascii=False) for card in cards)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def card_from_record(record: dict[str, Any]) -> Card:
    """The card that :func:`card_to_record` turned into plain data.

    Raises:
        TypeError: A field is missing or unknown.
        ValueError: A value is impossible.
    """
    _require_types(record, _CARD_TYPES)
    weights = tuple(_weights(item) for item in record.get("weights", ()))
    values = {**record, "weights": weights}
    if "input_size" in record:
        values["input_size"] = tuple(record["input_size"])
    return Card(**values)


_CARD_TYPES: dict[str, type | tuple[type, ...]] = {
    "family": str,
    "name": str,
    "build": str,
    "task": str,
    "num_classes": int,
    "options": dict,
    "weights": list,
    "default": (str, type(None)),
    "parameters": (int, type(None)),
    "needs_values": str,
}
_WEIGHTS_TYPES: dict[str, type | tuple[type, ...]] = {
    "tag": str,
    "urls": list,
    "sha256": str,
    "digests": dict,
    "size": (int, type(None)),
    "num_classes": int,
    "categories": (str, list),
    "preprocessing": dict,
    "licenses": dict,
    "metrics": dict,
    "options": dict,
    "convert": (str, type(None)),
    "whole": bool,
    "ignore": list,
    "absent": list,
    "docs": (str, type(None)),
    "outputs": dict,
}
_PREPROCESSING_TYPES: dict[str, type | tuple[type, ...]] = {
    "crop": (list, type(None)),
    "resize": list,
    "fit": str,
    "interpolation": str,
    "mean": list,
    "std": list,
    "value_range": (int, float),
    "channel_order": str,
    "antialias": bool,
}


def _require_types(record: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> None:
    """Refuse what JSON can say and a card's field cannot mean: a text for a list would be taken letter by letter."""
    for name, value in record.items():
        expected = types.get(name, object)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected not in (bool, object)):
            msg = f"{name} cannot be {value!r:.60}"
            raise TypeError(msg)


def _weights(record: dict[str, Any]) -> Weights:
    """The weights in the record of a card in a file."""
    _require_types(record, _WEIGHTS_TYPES)
    if not all(isinstance(url, str) for url in record.get("urls", ())):
        msg = "urls must be texts"
        raise TypeError(msg)
    values = _tuples(record)
    if "preprocessing" in record:
        values["preprocessing"] = _preprocessing(record["preprocessing"])
    if "licenses" in record:
        values["licenses"] = Licenses(**record["licenses"])
    if "outputs" in record:
        values["outputs"] = {device: _numbers(device, numbers) for device, numbers in record["outputs"].items()}
    return Weights(**values)


def _numbers(name: str, numbers: object) -> tuple[float, ...]:
    """A list of numbers in the record of a card, as a tuple; TypeError for anything else."""
    if not isinstance(numbers, list) or not all(isinstance(each, int | float) for each in numbers):
        msg = f"{name} must be a list of numbers"
        raise TypeError(msg)
    return tuple(numbers)


def _preprocessing(record: dict[str, Any]) -> Preprocessing:
    """The preprocessing in the record of a card in a file, of numbers where it has to be."""
    _require_types(record, _PREPROCESSING_TYPES)
    for name in ("crop", "resize", "mean", "std"):
        if not all(isinstance(each, int | float) for each in record.get(name) or ()):
            msg = f"{name} must be numbers"
            raise TypeError(msg)
    return Preprocessing(**_tuples(record))


def preprocessing_to_record(preprocessing: Preprocessing | None) -> dict[str, Any]:
    """A card's preprocessing as the plain data that card files hold, all of it; nothing for None."""
    record = asdict(preprocessing) if preprocessing else {}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}


def preprocessing_from_record(record: dict[str, Any]) -> Preprocessing | None:
    """Read the preprocessing of a card from its JSON record, as :func:`preprocessing_to_record` makes that.

    Raises:
        TypeError: A field is unknown, or of another type.
        ValueError: A value is impossible.
    """
    return _preprocessing(record) if record else None


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a card from JSON, which has only lists, with tuples for them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def card_to_record(item: Card | Weights | Preprocessing | Licenses) -> dict[str, Any]:
    """A card, or a part of one, as plain data for JSON; fields that equal their defaults are left out."""
    kept: dict[str, Any] = {}
    for spec in fields(item):
        value = getattr(item, spec.name)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if value == default:
            continue
        if isinstance(item, Card) and spec.name == "weights":
            kept[spec.name] = [card_to_record(weights) for weights in value]
        elif isinstance(value, Preprocessing | Licenses):
            kept[spec.name] = card_to_record(value)
        else:
            kept[spec.name] = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    return kept


_HEAD = r'\{"family": "([^"\\]*)", "name": "([^"\\]*)", "build": "[^"\\]*"(?:, "task": "([^"\\]*)")?[,}]'
"""How each line begins that ``write_cards`` wrote."""
_FIRST = re.compile(_HEAD.encode())
_EACH = re.compile(rf"\n{_HEAD}.*")
_USUAL = Card.task


def read_cards(path: Path | Traversable) -> CardFile:
    """The cards in a file that :func:`~zoo_core.write_cards` wrote, as a sequence that reads each when it is needed.

    A line that is not a card costs a warning and that card only.

    Args:
        path: A path, or a resource of a package from ``importlib.resources.files``.

    Raises:
        CatalogError: The file cannot be read at all.

    Example:
        >>> import tempfile, pathlib
        >>> from zoo_core.plugin import Card, write_cards
        >>> file = pathlib.Path(tempfile.mkdtemp(), "catalog.jsonl")
        >>> write_cards(file, [Card(family="acme", name="net", build="acme:net")])
        >>> read_cards(file)[0].id
        'acme/net'
    """
    return CardFile(path)


class CardFile(Sequence[Card]):
    """The cards in a file. In order they are a sequence like any other; by name, or of a task, they are found quickly.

    Args:
        path: A path, or a resource of a package.

    Raises:
        CatalogError: The file cannot be read at all.
    """

    def __init__(self, path: Path | Traversable) -> None:
        self._path = path
        try:
            self._data = b"\n" + path.read_bytes().rstrip(b"\n")  # so that a new line begins each card
        except OSError as error:
            raise CatalogError(f"{path} cannot be read", cause=str(error), file=str(path), line=0) from error

    @overload
    def __getitem__(self, index: int) -> Card: ...
    @overload
    def __getitem__(self, index: slice) -> list[Card]: ...
    def __getitem__(self, index: int | slice) -> Card | list[Card]:
        return self._cards[index]

    def __len__(self) -> int:
        return len(self._cards)

    def __eq__(self, other: object) -> bool:
        return self._cards == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as any sequence that is compared by what is in it

    @cached_property
    def heads(self) -> tuple[tuple[str, str, str], ...]:
        """Family, name and task of each card, in order, and nothing else of it checked."""
        with suppress(UnicodeDecodeError):
            result = _EACH.findall(self._data.decode())  # in one go: this is what `zoo list` does for every model
            if len(result) == self._data.count(b"\n"):
                return tuple((family, name, task or _USUAL) for family, name, task in result)
        # a line was written by hand
        return tuple((card.family, card.name, card.task) for card in self._cards)

    def records(self) -> Iterator[dict[str, Any]]:
        """Each line as plain data, unchecked: for all of them at once this is much faster than making cards.

        A line that is no JSON object is left out.
        """
        for line in self._data.splitlines():
            with suppress(ValueError, RecursionError):
                record = json.loads(line) if line else None
                if isinstance(record, dict):
                    yield record

    def has(self, family: str, name: str) -> bool:
        """Whether there is a card of that name."""
        if self._start_of(family, name) is not None:
            return True
        return self._by_hand and (family, name) in {head[:2] for head in self.heads}

    @cached_property
    def _by_hand(self) -> bool:
        """Whether a line may begin otherwise than ``write_cards`` lets those of one family begin."""
        first = _FIRST.match(self._data, 1)
        opening = _opening(first[1].decode(errors="replace")) if first else b""
        return self._data.count(opening) != self._data.count(b"\n") or b"\\" in self._data

    def find(self, family: str, name: str) -> Card | None:
        """The card of that name, or None.

        Raises:
            CatalogError: Its line is not a card; the message names file, line and reason.
        """
        start = self._start_of(family, name)
        if start is None:
            cards = self._cards if self.has(family, name) else ()
            return next((card for card in cards if (card.family, card.name) == (family, name)), None)
        end = self._data.find(b"\n", start)
        line = self._data[start : end if end >= 0 else None]
        return card_in_line(line, self._path, self._data.count(b"\n", 0, start))

    def _start_of(self, family: str, name: str) -> int | None:
        """Where the line of a card begins, if it begins as ``write_cards`` lets it."""
        before = self._data.find(_opening(family) + f"{_json(name)}, ".encode(errors="replace"))
        return before + 1 if before >= 0 else None

    @cached_property
    def _cards(self) -> list[Card]:
        cards, problems = scan_cards(self._path)
        for problem in problems:
            warnings.warn(str(problem), ZooWarning, stacklevel=4)
        return cards


def _opening(family: str) -> bytes:
    """How the lines of a family's cards begin in a file, by which one is found without parsing the others."""
    return f'\n{{"family": {_json(family)}, "name": '.encode(errors="replace")  # a file of UTF-8 has no half characters


def _json(text: str) -> str:
    """A string as the file of cards has it, in JSON."""
    return json.dumps(text, ensure_ascii=False)
