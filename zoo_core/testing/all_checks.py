"""The list of the checks of a model: plain functions of one card, from cheap to dear."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from zoo_core.errors import UsageError, close_matches, did_you_mean
from zoo_core.testing.checks.copies import check_compile, check_save, check_twins
from zoo_core.testing.checks.stages import check_stages
from zoo_core.testing.checks.structure import check_builds, check_in_features, check_paths, check_stem
from zoo_core.testing.checks.surgery import check_freeze, check_in_channels, check_norms, check_split, check_swap
from zoo_core.testing.checks.values import check_values
from zoo_core.testing.checks.weights_entries import check_card, check_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoo_core.contract.card import Card

CHECKS: tuple[Callable[[Card], None], ...] = (
    check_card,
    check_builds,
    check_paths,
    check_stem,
    check_in_features,
    check_stages,
    check_split,
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
    """What a check is called on the command line and in reports: ``"swap"`` for :func:`check_swap`."""
    return check.__name__.removeprefix("check_")


def checks_named(names: Iterable[str]) -> tuple[Callable[[Card], None], ...]:
    """The checks of these names, with or without ``check_``; all of :data:`CHECKS` for no name at all.

    Args:
        names: Such as ``"swap"``.

    Raises:
        UsageError: There is no such check; close matches are listed.

    Example:
        >>> [check.__name__ for check in checks_named(["swap", "compile"])]
        ['check_swap', 'check_compile']
    """
    known = {short_name(check): check for check in (*CHECKS, *DEAR_CHECKS)}
    wanted = [name.removeprefix("check_") for name in names]
    for name in wanted:
        if name not in known:
            hint = did_you_mean(close_matches(name, known), f"there are {', '.join(known)}")
            raise UsageError(f"no such check: {name!r}", hint=hint)
    return tuple(check for name, check in known.items() if name in wanted) if wanted else CHECKS


def checks_of(
    card: Card, names: Iterable[str] = (), compiled: Iterable[str] = ()
) -> tuple[Callable[[Card], None], ...]:
    """The checks that one model goes through: those of some names, or all, and the dear ones where it is of the sample.

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
    wanted = any(fnmatchcase(card.name, pattern.removeprefix(f"{card.family}/")) for pattern in compiled)
    return (*chosen, *(check for check in DEAR_CHECKS if wanted and check not in chosen))
