"""The cards of one family by name, checked as they are taken off the shelf."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeGuard

from zoo_core.card import Card
from zoo_core.card_file import CardFile
from zoo_core.errors import CatalogError
from zoo_core.plugins import go_without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo_core.family import Family
    from zoo_core.plugins import Plugin


class Shelf(MutableMapping[str, Card]):
    """The cards of a family by name, in the order of its catalogue; those of a file are read when they are wanted.

    Args:
        family: Whose cards they are.
        cards: What its catalogue returned.
        plugin: The plugin that contributes it, for an error.

    Raises:
        CatalogError: Something among ``cards`` is not a card of this family, or has the name of another.
    """

    def __init__(self, family: Family, cards: Sequence[object], plugin: Plugin) -> None:
        self._family = family
        self._plugin = plugin
        self._file = cards if isinstance(cards, CardFile) else None
        self._cards: dict[str, Card] = {}
        if self._file is None:
            for card in cards:
                if not _is_sound(card, family) or card.name in self._cards:
                    raise self._wrong(card)
                self._cards[card.name] = card

    @cached_property
    def _tasks(self) -> dict[str, str]:
        """Name to task of the cards in the file."""
        tasks: dict[str, str] = {}
        for family, name, task in self._file.heads if self._file is not None else ():
            if family != self._family.name or name in tasks:
                raise self._wrong(f"{family}/{name}")
            tasks[name] = task
        return tasks

    def task_of(self, name: str) -> str:
        """What the model of that name does."""
        card = self._cards.get(name)
        return card.task if card else self._tasks[name]

    def of_task(self, task: str | None) -> list[str]:
        """The names of the models that do that, in order; None stands for any task."""
        return [name for name in self if task in (None, self.task_of(name))]

    def __getitem__(self, name: str) -> Card:
        if name not in self._cards and self._file is not None:
            card = self._file.find(self._family.name, name)
            if card is not None:
                self._cards[name] = card
        return self._cards[name]

    def __contains__(self, name: object) -> bool:
        if name in self._cards or self._file is None or not isinstance(name, str):
            return name in self._cards
        return self._file.has(self._family.name, name)

    def __setitem__(self, name: str, card: Card) -> None:
        self._cards[name] = card

    def __delitem__(self, name: str) -> None:
        del self._cards[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._tasks, **self._cards})

    def __len__(self) -> int:
        return len({**self._tasks, **self._cards})

    def _wrong(self, got: object) -> CatalogError:
        return CatalogError(
            f"the catalogue of family {self._family.name!r} holds something wrong",
            expected=f"cards with family={self._family.name!r} and names of their own",
            got=repr(got)[:200],
            hint=go_without(self._plugin),
            plugin=self._plugin.name,
        )


def _is_sound(card: object, family: Family) -> TypeGuard[Card]:
    """Whether it is a card of this family that can be listed beside those of others: its name and task are texts."""
    return (
        isinstance(card, Card)
        and card.family == family.name
        and isinstance(card.name, str)
        and isinstance(card.task, str)
    )
