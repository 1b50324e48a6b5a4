"""The cards in a file, read one by one as they are asked for: listing a thousand models parses none of them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from zoo_core.contract.card import Card
from zoo_core.contract.records import card_in_line, scan_cards
from zoo_core.errors import CatalogError, ZooWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable
    from pathlib import Path

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
        # somebody wrote a line by hand
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
        before = self._data.find(_opening(family) + f"{_json(name)}, ".encode())
        return before + 1 if before >= 0 else None

    @cached_property
    def _cards(self) -> list[Card]:
        cards, problems = scan_cards(self._path)
        for problem in problems:
            warnings.warn(str(problem), ZooWarning, stacklevel=4)
        return cards


def _opening(family: str) -> bytes:
    return f'\n{{"family": {_json(family)}, "name": '.encode()


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
