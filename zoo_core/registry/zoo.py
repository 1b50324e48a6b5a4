"""The registry: which families there are, which models they have, and which one a name means."""

from __future__ import annotations

import builtins
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import settings
from zoo_core.contract.family import Family
from zoo_core.errors import DuplicatePlugin, FamilyUnavailable, PluginError, UnknownModel, UsageError, ZooWarning
from zoo_core.registry.choose import HEADER, cells, chosen
from zoo_core.registry.families import Member, Own
from zoo_core.registry.lookup_errors import (
    name_of_folder,
    name_of_timm,
    unknown_family,
    unknown_license,
    unknown_model,
    unknown_task,
)
from zoo_core.registry.plugins import Plugin, load_plugins, warn_of_unknown
from zoo_core.text import html_table
from zoo_core.utils.arguments import strict_arguments_of
from zoo_core.utils.paths import is_folder, is_written_as_path

if TYPE_CHECKING:
    from zoo_core.contract.card import Card
    from zoo_core.registry.choose import Entry

FAMILY_ORDER = ("torchvision", "timm", "efficientnet_pytorch", "pretrainedmodels", "tiny")
"""Where an unqualified name is looked for first; third-party families follow by name."""

_GLOB = frozenset("*?[")
_HUB_OF_TIMM = re.compile(r"hf[-_]hub:(?://)?(([^/@]+/[^/@]+)(?:@.+)?)")
"""A repository on the hub as timm spells it, with its revision, and without."""


@dataclass
class Zoo:
    """The registry. ``zoo_core.get`` and friends use one default instance; tests make their own.

    Args:
        plugins: What to load; None means every installed entry point in the group ``zoo_core``.

    Example:
        >>> zoo = Zoo()
        >>> zoo.resolve("tiny/glyphnet")[0].family
        'tiny'
    """

    plugins: tuple[Plugin, ...] = field(default_factory=load_plugins)

    @cached_property
    def claims(self) -> dict[str, tuple[Member, ...]]:
        """Every family name with those who contribute it: more than one is a conflict."""
        result: dict[str, tuple[Member, ...]] = {}
        for plugin in self.plugins:
            for family in plugin.families:
                result[family.name] = (*result.get(family.name, ()), Member(family, plugin))
        return result

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Family names in the order in which an unqualified name is looked for."""
        chosen = settings.family_order()
        warn_of_unknown("ZOO_FAMILIES", chosen, {*self.claims, *(plugin.name for plugin in self.plugins)})
        first = chosen or FAMILY_ORDER
        rest = sorted(name for name in self.claims if name not in first)
        return (*(name for name in first if name in self.claims), *rest)

    def member(self, family: str) -> Member:
        """The family of that name.

        Raises:
            UnknownFamily: No plugin contributes it.
            DuplicatePlugin: Two plugins do; the message names both.
            FamilyUnavailable: The plugin that is named like it does not load.
        """
        claims = self.claims.get(family, ())
        if len(claims) > 1:
            names = tuple(member.plugin.origin for member in claims)
            raise DuplicatePlugin(
                f"two plugins contribute a family called {family!r}: {' and '.join(names)}",
                cause="one of them took a name that was already in use",
                hint="uninstall one, or set " + " or ".join(f"ZOO_DISABLE={claim.plugin.name}" for claim in claims),
                name=family,
                claimants=names,
            )
        if claims:
            return claims[0]
        broken = next((plugin for plugin in self.plugins if plugin.name == family and plugin.problem), None)
        if broken:
            raise FamilyUnavailable(
                f"the plugin for family {family!r} does not load",
                got=broken.problem,
                hint="zoo plugins --verbose shows the traceback",
                family=family,
            )
        raise unknown_family(family, self.order, self.plugins)

    def add(self, card: Card, *, own: Own | None = None) -> None:
        """Add a model to a family, or replace it, in this zoo; a family of a new name is made for it.

        Args:
            card: What it is, such as ``replace(card, weights=(...))`` of one that is there.
            own: What ``zoo.register`` knows beside it.

        Raises:
            UsageError: It is no card.
            DuplicatePlugin: Two plugins contribute the family.

        Example:
            >>> from zoo_core.plugin import Card
            >>> zoo = Zoo(plugins=())
            >>> zoo.add(Card(family="mine", name="net", build="torch.nn:Identity"))
            >>> zoo.list()
            ['mine/net']
        """
        if not hasattr(card, "family") or not hasattr(card, "build"):
            raise UsageError(
                f"{card!r:.80} cannot be added", expected="a zoo_core.Card", got=f"a {type(card).__name__}"
            )
        if card.family not in self.claims:
            family = Family(card.family, catalog="")
            plugin = Plugin(card.family, "registered in this process", families=(family,))
            self.claims[card.family] = (Member(family, plugin),)
            self.__dict__.pop("order", None)
        member = self.member(card.family)
        member.cards[card.name] = card
        member.own.pop(card.name, None)
        if own is not None:
            member.own[card.name] = own

    def list(self, pattern: str = "*", *, family: str | None = None, task: str | None = None) -> builtins.list[str]:
        """The qualified names of the models that match, in family order and then in the library's own.

        A family whose library is not installed is left out, unless ``family`` or the pattern names it.

        Args:
            pattern: A glob over names, or over ``family/name`` when it has a slash.
            family: Only this family.
            task: Only this task, such as ``"classification"``.

        Raises:
            UsageError: An argument is no text, or no model has that task.
            UnknownFamily: There is no such family.
        """
        for name, value in {"pattern": pattern, "family": family, "task": task}.items():
            if not isinstance(value, str) and (value is not None or name == "pattern"):
                raise UsageError(f"{name} cannot be {value!r}", expected="a text", argument=name)
        named = [self.member(name) for name in (family, self._family_in(pattern)) if name is not None]
        members = named[:1] or [each for each in self.usable(listed=True) if not each.problem]
        names = {member.family.name: member.cards.of_task(task) for member in members}
        if task is not None and not any(names.values()):
            self._require_task(task)
        matches = re.compile(translate(pattern)).match  # what fnmatchcase does, without its costs for each name
        result: builtins.list[str] = []
        for owner, models in names.items():
            ids = [f"{owner}/{model}" for model in models]
            heard = ids if "/" in pattern else models
            result += [each for each, text in zip(ids, heard, strict=True) if matches(text)]
        return result

    @staticmethod
    def _family_in(pattern: str) -> str | None:
        """The family that a pattern of names is in, when that says it without wildcards."""
        family = pattern.rpartition("/")[0]
        return family if family and not _GLOB.intersection(family) else None

    def entries(
        self, pattern: str = "*", *, family: str | None = None, task: str | None = None
    ) -> builtins.list[Entry]:
        """What each model that :meth:`list` names is chosen by.

        Raises:
            UsageError: As :meth:`list` does.
        """
        result: dict[str, dict[str, Entry]] = {}
        entries: builtins.list[Entry] = []
        for name in self.list(pattern, family=family, task=task):
            owner, _, model = name.partition("/")
            if owner not in result:
                member = self.member(owner)
                result[owner] = member.cards.entries(member.costs)
            if model in result[owner]:
                entries.append(result[owner][model])
        return entries

    def choose(
        self,
        pattern: str = "*",
        *,
        family: str | None = None,
        task: str | None = None,
        **filters: Any,
    ) -> builtins.list[Entry]:
        """What each model that ``zoo.list`` names is chosen by, in its order.

        Raises:
            UsageError: As :meth:`list` does, or no weights of any family have that licence.
        """
        result = chosen(self.entries(pattern, family=family, task=task), **filters)
        license_ = filters.get("license")
        if license_ is not None and not result:
            known = {figure.license for entry in self.entries() for figure in entry.figures}
            if known and license_.lower() not in {each.lower() for each in known}:
                raise unknown_license(license_, sorted(known))
        return result

    def _require_task(self, task: str) -> None:
        tasks = sorted({member.cards.task_of(name) for member in self.usable(listed=True) for name in member.cards})
        if tasks and task not in tasks:
            raise unknown_task(task, tasks)

    def resolve(self, name: str) -> tuple[Card, str | None]:
        """The card that a name means, and the tag if it has one.

        Args:
            name: ``family/name@tag``, with family and tag optional.

        Raises:
            UsageError: The name is not a string of that form.
            UnknownModel: No family has it; close matches are listed.
            UnknownFamily: There is no such family.
            UnknownTag: The model has no weights with that tag.
        """
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"not a model name: {name!r}", expected="'name', 'family/name' or 'family/name@tag'")
        if repository := _HUB_OF_TIMM.fullmatch(name):
            raise name_of_timm(name, repository[1], self._with_weights_of(repository[2]))
        bare, _, tag = name.partition("@")
        family, _, model = bare.rpartition("/")
        if is_written_as_path(name) or (family and family not in self.claims and is_folder(Path(name))):
            raise name_of_folder(name)
        if family:
            card = self.member(family).cards.get(model)
        else:
            card = next((member.cards[model] for member in self.usable() if model in member.cards), None)
        if card is None:
            raise self._unknown(bare, family)
        if tag:
            card.find(tag)
        return card, tag or None

    def find(self, name: str) -> builtins.list[Card]:
        """Every card with that unqualified name, in family order: the first is what the bare name means."""
        return [card for member in self.usable() if (card := member.cards.get(name))]

    def usable(self, *, listed: bool = False) -> Iterator[Member]:
        """The families that an unqualified name is looked for in; a warning names each that has to be passed over.

        Args:
            listed: Whether all their names are requested, so that these have to be right too.
        """
        for name in self.order:
            try:
                member = self.member(name)
                _ = len(member.cards) if listed else member.cards
            except PluginError as error:
                warnings.warn(f"family {name!r} is passed over: {error.summary}", ZooWarning, stacklevel=4)
            else:
                yield member

    def _with_weights_of(self, repository: str) -> builtins.list[str]:
        """The models, with their tags, that have weights from a repository on the hub."""
        path = f"/{repository}/resolve/"
        return [
            f"{card.id}@{weights.tag}"
            for member in self.usable()
            for card in member.cards.values()
            for weights in card.weights
            if any(path in url for url in weights.urls)
        ]

    def _unknown(self, name: str, family: str) -> UnknownModel:
        members = [self.member(family)] if family else [*self.usable(listed=True)]
        known = [f"{family}/{model}" if family else model for member in members for model in member.cards]
        return unknown_model(name, known, [member.family.name for member in members], self.plugins)

    def available(self, card: Card) -> Member:
        """The family of a card, when its library is there to build with.

        Raises:
            FamilyUnavailable: The library is missing; the message has the install command.
        """
        member = self.member(card.family)
        if member.problem:
            raise FamilyUnavailable(
                f"{card.id} cannot be built: its library is missing",
                got=member.problem.split(";")[0],
                hint=f"pip install {member.family.requires}",
                family=card.family,
            )
        return member


_current: ContextVar[Zoo | None] = ContextVar("zoo", default=None)
_default: list[Zoo] = []


def current_zoo() -> Zoo:
    """The registry in use: the one given to :func:`use`, else the default one, made on first need."""
    chosen = _current.get()
    if chosen is not None:
        return chosen
    if not _default:
        _default.append(Zoo())
    return _default[0]


@contextmanager
def use(zoo: Zoo) -> Iterator[Zoo]:
    """Make ``zoo`` the registry that ``zoo_core.get``, ``list`` and ``info`` use inside the block.

    Args:
        zoo: The registry to use.

    Example:
        >>> import zoo_core as zoo
        >>> with zoo.use(zoo.Zoo(plugins=())):
        ...     zoo.list()
        []
    """
    token = _current.set(zoo)
    try:
        yield zoo
    finally:
        _current.reset(token)


class ModelNames(builtins.list[str]):
    """Which models a registry has, as a list of their names; a notebook shows a table of what these cost."""

    _MOST = 50
    """Rows of that table."""

    def _repr_html_(self) -> str:
        zoo, shown = current_zoo(), self[: self._MOST]
        families = {name.partition("/")[0] for name in shown} & zoo.claims.keys()
        entries = {entry.id: entry for family in families for entry in zoo.entries(family=family)}
        rows = [cells(entries[name]) if name in entries else (name, *"?????") for name in shown]
        more = f", of which {len(shown)} are shown" if len(self) > len(shown) else ""
        return html_table("Models", HEADER, rows, f"{len(self)} models{more}")


@strict_arguments_of("list")
def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    task: str | None = None,
    max_parameters: float | None = None,
    license: str | None = None,  # noqa: A002 - the field's word for it
    min_accuracy: float | None = None,
    input_size: int | None = None,
    sort: str | None = None,
) -> builtins.list[str]:
    """The qualified names of the models of the zoo in use that match; imports neither torch nor a model library.

    A family whose library is not installed is left out, unless ``family`` or the pattern names it.

    Args:
        pattern: A glob over names, or over ``family/name`` when it has a slash.
        family: Only this family.
        task: Only this task, such as ``"classification"``.
        max_parameters: Only models with at most so many.
        license: Only models with weights of this licence, such as ``"apache-2.0"``.
        min_accuracy: Only models with weights whose publisher states at least this ImageNet-1K acc@1, in percent; with
            ``license`` the same weights have to have both.
        input_size: Only models designed for images of this width, in pixels.
        sort: ``"name"``, ``"parameters"`` or ``"multiply_adds"`` (few first), or ``"accuracy"`` (high first); what is
            not known comes last.

    Returns:
        Names such as ``"torchvision/resnet18"``, in the order in which an unqualified name is looked for; a notebook
        shows them as a table.

    Raises:
        UsageError: An argument is impossible, no model has that task, or no weights have that licence.
        UnknownFamily: There is no such family.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.list("resnet1*", family="torchvision")
        ['torchvision/resnet101', 'torchvision/resnet152', 'torchvision/resnet18']
    """
    zoo = current_zoo()
    filters = {
        "max_parameters": max_parameters,
        "license": license,
        "min_accuracy": min_accuracy,
        "input_size": input_size,
        "sort": sort,
    }
    if all(value is None for value in filters.values()):
        return ModelNames(zoo.list(pattern, family=family, task=task))  # which reads no card
    return ModelNames(each.id for each in zoo.choose(pattern, family=family, task=task, **filters))


list = list_models  # noqa: A001 - zoo.list is the field's word for it
