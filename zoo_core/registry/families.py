"""The families of one registry, and their cards by name, checked when they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeGuard

from zoo_core.contract.card import Card, Preprocessing
from zoo_core.contract.card_file import CardFile, card_to_record
from zoo_core.errors import AnatomyError, CatalogError, raised_in
from zoo_core.registry.choose import Entry
from zoo_core.registry.plugins import Plugin, go_without, is_installed, version_of

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.contract.cost_files import Cost, Parts
    from zoo_core.contract.family import Family


@dataclass(frozen=True)
class Own:
    """What a family of the user's own models keeps of one beside its card, which cannot hold it.

    Attributes:
        build: What makes it.
        class_names: What its classes are called.
        preprocessing: What an image goes through on its way in.
        example: What forward takes; None for an image of the card's ``input_size``.
        head: Path of the main head site, where tracing finds several or none.
        stages: Where its stages end, instead of tracing them.
        anatomy: Where its parts are, instead of tracing it.
    """

    build: Callable[..., Any]
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    example: Any = None
    head: str | None = None
    stages: Any = None
    anatomy: Anatomy | None = None


@dataclass
class Member:
    """A family as one zoo knows it: who contributes it, whether it can be used, and its cards once requested.

    Attributes:
        family: What the plugin says of it.
        plugin: Who contributes it.
        own: What was registered in this process, by the name of the model.
    """

    family: Family
    plugin: Plugin
    own: dict[str, Own] = field(default_factory=dict)

    @cached_property
    def problem(self) -> str | None:
        """Why the family cannot build models, with the remedy; None when it can."""
        if self.family.requires and not is_installed(self.family.requires):
            return f"{self.family.requires} is not installed; pip install {self.family.requires}"
        return None

    @cached_property
    def cards(self) -> Catalog:
        """The cards of this family by name.

        Raises:
            CatalogError: The plugin's catalogue does not load, or what it returns is not a list of cards.
        """
        try:
            cards = self._catalogue()
            cards = cards if isinstance(cards, CardFile) else list(cards)
        except (Exception, SystemExit) as error:  # a plugin's own code must not take the registry down
            raise CatalogError(
                f"the catalogue of family {self.family.name!r} does not load",
                got=f"{type(error).__name__}: {error}",
                hint=go_without(self.plugin),
                plugin=self.plugin.name,
            ) from error
        return Catalog(self.family, cards, self.plugin)

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What an image costs each model, by its name, as the plugin ships it."""
        from zoo_core.contract.cost_files import read_costs

        return read_costs(self.family.costs) if self.family.costs else {}

    @cached_property
    def parts(self) -> dict[str, Parts]:
        """The heads and stages of each model, by its name, as the plugin ships them."""
        from zoo_core.contract.cost_files import read_parts

        return read_parts(self.family.parts) if self.family.parts else {}

    def _catalogue(self) -> Sequence[object]:
        """What the plugin ships or, where its library has another version and can be indexed, what that has."""
        family = self.family
        if not family.catalog:  # all its models were registered in this process
            return ()
        installed = version_of(family.requires) if family.index and family.indexed else None
        shipped = resolve_name(family.indexed)() if installed else ""
        if installed and installed.partition("+")[0] != shipped.partition("+")[0]:  # "+cpu" is another build, no more
            from zoo_core.registry.reindex import remembered

            if (result := remembered(family, installed, self.plugin.origin)) is not None:
                return result
        cards: Sequence[object] = resolve_name(family.catalog)()
        return cards

    def builder(self, card: Card) -> Callable[..., Any]:
        """What constructs the model of a card: what was registered, or what its ``build`` names."""
        if card.name in self.own:
            return self.own[card.name].build
        result: Callable[..., Any] = resolve_name(card.build)
        return result

    def anatomy(self, model: nn.Module) -> Anatomy:
        """Where the parts of ``model`` are, as the plugin says of it without what ``torch.compile`` put around layers.

        Raises:
            AnatomyError: The plugin's function raises, or returns something else, or the plugin says nothing.
        """
        from zoo_core.contract.anatomy import Anatomy
        from zoo_core.utils.compiled import without_compiled

        if self.family.anatomy is None:
            raise AnatomyError(
                f"family {self.family.name!r} does not say where the parts of a {type(model).__name__} are",
                hint="zoo.adopt(model, example=x), with x what forward takes, finds them",
                plugin=self.plugin.name,
            )
        try:
            result = resolve_name(self.family.anatomy)(without_compiled(model))
        except (Exception, SystemExit) as error:  # a plugin's own code, as above
            where = raised_in(error)
            raise self._no_anatomy(model, f"{type(error).__name__}: {error}{where and f', in {where}'}") from error
        if not isinstance(result, Anatomy):
            raise self._no_anatomy(model, repr(result)[:200])
        return result

    def _no_anatomy(self, model: nn.Module, got: str) -> AnatomyError:
        return AnatomyError(
            f"family {self.family.name!r} cannot say where the parts of a {type(model).__name__} are",
            expected=f"{self.family.anatomy} to return a zoo_core.Anatomy",
            got=got,
            hint=f"report it to the authors of {self.plugin.origin}",
            plugin=self.plugin.name,
        )


class Catalog(MutableMapping[str, Card]):
    """The cards by name of one family in a registry, checked when they are read, in the order of its catalogue.

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
                if not _can_be_listed(card, family) or card.name in self._cards:
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
        return result | {
            name: Entry.of_record(card_to_record(card), costs.get(name)) for name, card in self._cards.items()
        }

    def values(self) -> ValuesView[Card]:
        """All cards in order; those of a file are read in one go, which is much faster than each by its name."""
        for card in self._file or ():
            self._cards.setdefault(card.name, card)
        return super().values()

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


def _can_be_listed(card: object, family: Family) -> TypeGuard[Card]:
    """Whether an object of a family's catalogue is its card, fit to be registered beside those of other families."""
    return (
        isinstance(card, Card)
        and card.family == family.name
        and isinstance(card.name, str)
        and isinstance(card.task, str)
    )
