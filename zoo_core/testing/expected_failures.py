"""Failures of checks that an author expects, with the reason of each: as globs over checks and models."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from zoo_core.registry.zoo import current_zoo
from zoo_core.testing.choosing import CHECKS, DEAR_CHECKS, short_name
from zoo_core.testing.findings import NonConformance, require
from zoo_core.text import close_matches, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable


def declared(family: str) -> Mapping[str, str]:
    """The failures that a family declares as expected, in ``Family.exceptions``: ``"check:model"`` globs to reasons.

    Args:
        family: Its name.

    Raises:
        NonConformance: What it names is not there, or is no mapping.
    """
    where = current_zoo().member(family).family.exceptions
    if not where:
        return {}
    try:
        result = resolve_name(where)
    except Exception as error:
        raise NonConformance(
            f"{family}: Family.exceptions names {where}, which does not load", got=f"{type(error).__name__}: {error}"
        ) from error
    require(isinstance(result, Mapping), f"{family}: {where} is a {type(result).__name__}, not a mapping of globs")
    return dict(result)


def reason_for(check: str, model: str, expected: Mapping[str, str]) -> str | None:
    """The reason why this check is expected to fail on this model; None where it is expected to pass.

    Args:
        check: Its name, without ``check_``.
        model: Name of the model, without the family.
        expected: ``"check:model"`` globs to reasons; ``check_`` before the name of the check may be there or not.

    Example:
        >>> reason_for("swap", "squeezenet1_0", {"check_swap:squeezenet*": "its scores are a map"})
        'its scores are a map'
    """
    case = f"{check}:{model}"
    return next((why for glob, why in expected.items() if fnmatchcase(case, glob.removeprefix("check_"))), None)


def check_globs(expected: Mapping[str, str], models: Iterable[str]) -> None:
    """Every glob of expected failures names a check and at least one model, and every reason says something.

    Args:
        expected: ``"check:model"`` globs to reasons.
        models: Names of all models of the family, without the family.

    Raises:
        NonConformance: One does not; close matches are listed.

    Example:
        >>> check_globs({"swop:net": "why"}, ["net"])
        Traceback (most recent call last):
        ...
        zoo_core.testing.findings.NonConformance: the expected failure 'swop:net' names no check; did you mean 'swap'?
    """
    names = [short_name(check) for check in (*CHECKS, *DEAR_CHECKS)]
    known = [*models]
    for glob, reason in expected.items():
        label = f"the expected failure {glob!r}"
        check, _, model = glob.removeprefix("check_").partition(":")
        nearest = did_you_mean(close_matches(check, names, limit=1), f"there are {', '.join(names)}")
        require(any(fnmatchcase(name, check) for name in names), f"{label} names no check; {nearest}")
        nearest = did_you_mean(close_matches(model, known, limit=1), "write it as 'check:model'")
        require(any(fnmatchcase(name, model) for name in known), f"{label} names no model; {nearest}")
        require(isinstance(reason, str) and reason.strip() != "", f"{label} has no reason")
