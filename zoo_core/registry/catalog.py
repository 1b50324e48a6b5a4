"""The cards of one family by name, checked as they are taken off the shelf."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeGuard

from zoo_core.contract.card import Card
from zoo_core.contract.card_file import CardFile
from zoo_core.errors import CatalogError
from zoo_core.registry.choose import Entry
from zoo_core.registry.plugins import go_without

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zoo_core.contract.costs import Cost
    from zoo_core.contract.family import Family
    from zoo_core.registry.plugins import Plugin


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
        heads = self._file.heads if self._file is not None else ()
        tasks = {name: task for _, name, task in heads}
        strange = [f"{family}/{name}" for family, name, _ in heads if family != self._family.name]
        if len(tasks) < len(heads):
            strange += [name for name, count in Counter(name for _, name, _ in heads).items() if count > 1]
        if strange:
            raise self._wrong(strange[0])
        return tasks

    def task_of(self, name: str) -> str:
        """What the model of that name does."""
        card = self._cards.get(name)
        return card.task if card else self._tasks[name]

    def of_task(self, task: str | None) -> list[str]:
        """The names of the models that do that, in order; None stands for any task."""
        return [*self] if task is None else [name for name in self if self.task_of(name) == task]

    def entries(self, costs: Mapping[str, Cost]) -> dict[str, Entry]:
        """What each model is chosen by, by its name."""
        result: dict[str, Entry] = {}
        for record in self._file.records() if self._file is not None else ():
            with suppress(AttributeError, KeyError, TypeError):  # a malformed card is named where it is used
                result[record["name"]] = Entry.of_record(record, costs.get(record["name"]))
        return result | {name: Entry.of_card(card, costs.get(name)) for name, card in self._cards.items()}

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
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def _names(self) -> Mapping[str, object]:
        return {**self._tasks, **self._cards} if self._cards else self._tasks

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
