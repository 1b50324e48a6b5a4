"""A family as one registry knows it: who contributes it, whether its library is there, and its cards once asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from zoo_core.contract.card_file import CardFile
from zoo_core.errors import AnatomyError, CatalogError
from zoo_core.registry.catalog import Shelf
from zoo_core.registry.entry_points import is_installed, version_of
from zoo_core.registry.plugins import go_without

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.contract.card import Card, Preprocessing
    from zoo_core.contract.costs import Cost
    from zoo_core.contract.family import Family
    from zoo_core.registry.plugins import Plugin


@dataclass(frozen=True)
class Own:
    """What a card cannot hold of a model that was registered in this process.

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
    """A family as one zoo knows it: who contributes it, whether it can be used, and its cards once asked for.

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
    def cards(self) -> Shelf:
        """The cards by name.

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
        return Shelf(self.family, cards, self.plugin)

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What an image costs each model, by its name, as the plugin ships it."""
        from zoo_core.contract.costs import read_costs

        return read_costs(self.family.costs) if self.family.costs else {}

    def _catalogue(self) -> Sequence[object]:
        """What the plugin ships or, where its library has another version and can be indexed, what that has."""
        family = self.family
        if not family.catalog:  # all its models were registered in this process
            return ()
        installed = version_of(family.requires) if family.index and family.indexed else None
        if installed and _public(installed) != _public(resolve_name(family.indexed)()):
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
        """Where the parts of ``model`` are, as the plugin says.

        Raises:
            AnatomyError: The plugin's function raises, or returns something else, or the plugin says nothing.
        """
        from zoo_core.contract.anatomy import Anatomy

        if self.family.anatomy is None:
            raise AnatomyError(
                f"family {self.family.name!r} does not say where the parts of a {type(model).__name__} are",
                hint="zoo.adopt(model, example=x), with x what forward takes, finds them",
                plugin=self.plugin.name,
            )
        try:
            result = resolve_name(self.family.anatomy)(model)
        except (Exception, SystemExit) as error:  # a plugin's own code, as above
            raise self._no_anatomy(model, f"{type(error).__name__}: {error}") from error
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


def _public(version: str) -> str:
    """A version without the name of its build, as in ``2.15.0+cpu``."""
    return version.partition("+")[0]
