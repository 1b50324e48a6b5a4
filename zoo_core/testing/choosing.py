"""Which models are checked, and by which checks: some names, a sample, and this machine's share of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from zoo_core.contract.anatomy import Head
from zoo_core.contract.card import Card
from zoo_core.errors import UsageError
from zoo_core.registry.lookup_errors import unknown_task
from zoo_core.registry.zoo import current_zoo
from zoo_core.testing.checks.anatomy import check_in_features, check_paths
from zoo_core.testing.checks.builds import check_builds
from zoo_core.testing.checks.card import check_card
from zoo_core.testing.checks.copies import check_save, check_twins
from zoo_core.testing.checks.features import check_branch, check_features
from zoo_core.testing.checks.forward import check_compile, check_forward
from zoo_core.testing.checks.loading import check_state, check_values
from zoo_core.testing.checks.split import check_split
from zoo_core.testing.checks.stages import check_borders, check_depths, check_stages
from zoo_core.testing.checks.stem import check_in_channels, check_stem
from zoo_core.testing.checks.swap import check_swap
from zoo_core.testing.checks.training import check_freeze, check_norms, check_training
from zoo_core.testing.under_test import forget, model_under_test, shapes_above
from zoo_core.text import close_matches, did_you_mean

if TYPE_CHECKING:
    from torch import nn


CHECKS: tuple[Callable[[Card], None], ...] = (
    check_card,
    check_builds,
    check_forward,
    check_paths,
    check_stem,
    check_in_features,
    check_stages,
    check_borders,
    check_depths,
    check_features,
    check_branch,
    check_split,
    check_training,
    check_swap,
    check_in_channels,
    check_freeze,
    check_norms,
    check_twins,
    check_state,
    check_values,
    check_save,
)
"""Every check that is made on every model, from cheap to dear."""

DEAR_CHECKS: tuple[Callable[[Card], None], ...] = (check_compile,)
"""Those that take seconds a model, and are made on a sample."""


def short_name(check: Callable[..., None]) -> str:
    """The name that a check is chosen by on the command line, and has in reports: ``"swap"`` for :func:`check_swap`."""
    return check.__name__.removeprefix("check_")


def checks_named(names: Iterable[str]) -> tuple[Callable[[Card], None], ...]:
    """Choose the checks of these names, with or without ``check_``; all of :data:`CHECKS` for no name at all.

    Raises:
        UsageError: There is no such check; close matches are listed.

    Example:
        >>> [check.__name__ for check in checks_named(["swap", "compile"])]
        ['check_swap', 'check_compile']
    """
    known = {short_name(check): check for check in (*CHECKS, *DEAR_CHECKS)}
    selected = [name.removeprefix("check_") for name in names]
    for name in selected:
        if name not in known:
            hint = did_you_mean(close_matches(name, known), f"there are {', '.join(known)}")
            raise UsageError(f"no such check: {name!r}", hint=hint)
    return tuple(check for name, check in known.items() if name in selected) if selected else CHECKS


def checks_of(
    card: Card, names: Iterable[str] = (), compiled: Iterable[str] = ()
) -> tuple[Callable[[Card], None], ...]:
    """Choose the checks that one model goes through: some names, or all, and the dear ones where it is of the sample.

    Args:
        card: The model.
        names: As for :func:`checks_named`.
        compiled: Globs over the names of the models that go through ``torch.compile`` too.

    Raises:
        UsageError: There is no such check.

    Example:
        >>> import zoo_core as zoo
        >>> checks_of(zoo.info("tiny/glyphnet"), compiled=["glyph*"])[-1].__name__
        'check_compile'
    """
    chosen = checks_named(names)
    selected = any(fnmatchcase(card.name, pattern.removeprefix(f"{card.family}/")) for pattern in compiled)
    return (*chosen, *(check for check in DEAR_CHECKS if selected and check not in chosen))


Sample = int | Literal["kinds"]


def cards_named(family: str, patterns: Iterable[str] = (), tasks: Iterable[str] = ()) -> list[Card]:
    """Choose which models of a family are checked: cards whose names match a pattern, in the order of its catalogue.

    Args:
        family: Its name.
        patterns: Globs over model names; none means all models.
        tasks: Only these tasks; none means all of them.

    Raises:
        UsageError: A pattern without wildcards names no model; close matches are listed.
        UnknownFamily: There is no such family.

    Example:
        >>> [card.id for card in cards_named("torchvision", ["resnet1?"])]
        ['torchvision/resnet18']
    """
    cards = current_zoo().member(family).cards
    globs = [pattern.removeprefix(f"{family}/") for pattern in patterns]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in cards):
            hint = did_you_mean(close_matches(glob, cards), f"zoo list --family {family} shows the names")
            raise UsageError(f"{family} has no model {glob!r}", hint=hint)
    selected = [*tasks]
    return [
        card
        for name, card in cards.items()
        if (not globs or any(fnmatchcase(name, glob) for glob in globs)) and (not selected or card.task in selected)
    ]


def sampled(cards: Sequence[Card], sample: Sample | None) -> list[Card]:
    """Choose a sample of models to check, the same one every time.

    Args:
        cards: What to choose from.
        sample: How many, spread evenly over the catalogue, in which relatives stand together; or ``"kinds"``: the
            smallest model of each task, class and shape of head sites, for which every model is built once without
            values; None for all of them.

    Raises:
        UsageError: The sample is another word, or a number below 1.

    Example:
        >>> import zoo_core as zoo
        >>> cards = [zoo.info(f"resnet{depth}") for depth in (18, 34, 50, 101, 152)]
        >>> [card.name for card in sampled(cards, 3)], [card.name for card in sampled(cards, "kinds")]
        (['resnet18', 'resnet34', 'resnet101'], ['resnet18'])
    """
    if sample is None:
        return [*cards]
    if sample == "kinds":
        return _of_each_kind(cards)
    if not isinstance(sample, int) or sample < 1:
        raise UsageError(f"sample cannot be {sample!r}", expected="how many models, or 'kinds'")
    count = min(sample, len(cards))
    return [cards[index * len(cards) // count] for index in range(count)]


def _of_each_kind(cards: Sequence[Card]) -> list[Card]:
    """Choose the smallest model of each kind."""
    result: dict[object, Card] = {}
    by_size = sorted(cards, key=lambda card: card.parameters or 0)
    with shapes_above(-1):
        for card in by_size:
            try:
                kind = _sample_kind(card)
            except Exception:  # noqa: BLE001 - a model that does not even build is a kind of its own, and will be checked
                kind = card.name
            result.setdefault(kind, card)
        forget()
    chosen = {card.name for card in result.values()}
    return [card for card in cards if card.name in chosen]


def _sample_kind(card: Card) -> object:
    """Kind of a model, of which a sample takes one: its task, its class, and the shapes of its head sites."""
    from zoo_core.surgery.metadata import anatomy_of

    model = model_under_test(card)
    return card.task, type(model), frozenset(_shape_of(model, site) for site in anatomy_of(model).heads)


def _shape_of(model: nn.Module, site: Head) -> object:
    """What kinds in a sample differ by at a head site: its role, whether it has a layer yet, the module around it."""
    around = model.get_submodule(site.path.rpartition(".")[0])
    within = None if around is model else type(around)
    return site.role, site.kind, site.tokens, site.per_class, site.num_classes > 0, within


def shard(cards: Sequence[Card], share: str | None = None) -> list[Card]:
    """The share of the models that one machine of several checks: neighbours in the catalogue, alike, are dealt out.

    Args:
        cards: What to divide; the same on each machine.
        share: ``"1/4"`` for the first of four; None means what ``ZOO_SHARD`` says, and without that, all.

    Raises:
        UsageError: It is no share.

    Example:
        >>> import zoo_core as zoo
        >>> cards = [zoo.info(f"resnet{depth}") for depth in (18, 34, 50, 101, 152)]
        >>> [card.name for card in shard(cards, "1/2")], [card.name for card in shard(cards, "2/2")]
        (['resnet18', 'resnet50', 'resnet152'], ['resnet34', 'resnet101'])
    """
    text = share or os.environ.get("ZOO_SHARD") or "1/1"
    first, slash, count = text.partition("/")
    right = bool(slash) and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)
    if not right:
        where = "" if share else " (ZOO_SHARD)"
        raise UsageError(f"the share of the models cannot be {text!r}{where}", expected="1/4 for the first of four")
    return [*cards[int(first) - 1 :: int(count)]]


def installed_families() -> list[str]:
    """Which families are checked where none is named: those whose library is installed, in their order."""
    zoo = current_zoo()
    return [member.family.name for member in zoo.usable(listed=True) if not member.problem]


def known_tasks(family: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the models to check by these tasks, if the family has models of each.

    Raises:
        UnknownTask: It has none of one; those that it has are listed.
    """
    known = sorted({card.task for card in current_zoo().member(family).cards.values()})
    for task in tasks:
        if task not in known:
            raise unknown_task(task, known)
    return tasks
