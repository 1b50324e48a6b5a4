"""What a check said of a model, as data: passed, failed, refused, expected or skipped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pkgutil import resolve_name
from typing import Literal
from unittest import SkipTest

from zoo_core.contract.card import Card
from zoo_core.errors import NotSupported, ZooError, raised_in
from zoo_core.registry.zoo import current_zoo
from zoo_core.testing.choosing import short_name
from zoo_core.testing.findings import NonConformance, require, values_missed
from zoo_core.testing.under_test import by_shapes
from zoo_core.utils.meta_shapes import MetaShapes

_IN = "\n  in: "
Outcome = Literal["passed", "failed", "refused", "expected", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "refused", "expected", "skipped")
"""``passed``; ``failed``; ``refused``: zoo says that this model cannot do that, and why; ``expected``: it fails as its
author said it would; ``skipped``: the check can say nothing about this model."""


@dataclass(frozen=True)
class Verdict:
    """What one check said of one model, or of its family.

    Attributes:
        check: Name of the check, without ``check_``.
        model: Name of the model, without the family; ``""`` for a check of the family as a whole.
        outcome: One of :data:`OUTCOMES`.
        reason: Why, for all but ``"passed"``.
        seconds: How long it took.
        shapes: Whether it had only shapes to compare where values count, because the model had none: a split that
            passes so gives scores of the right shape, and it was not shown that they are the model's own bit for bit.
    """

    check: str
    model: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    shapes: bool = False


def judge(check: Callable[[Card], None], card: Card, expected: Mapping[str, str] | None = None) -> Verdict:
    """Reach the verdict of one check on one model. Whatever the model raises is in it; nothing is raised.

    Args:
        check: Such as :func:`zoo_core.testing.check_swap`.
        card: The model.
        expected: ``"check:model"`` globs to the reasons why they are expected to fail.

    Example:
        >>> import zoo_core as zoo
        >>> from zoo_core.testing import check_swap
        >>> judge(check_swap, zoo.info("tiny/glyphnet")).outcome
        'passed'
    """
    name = short_name(check)
    started = time.perf_counter()
    with MetaShapes() if by_shapes(card) else nullcontext(), values_missed() as missed:
        outcome, reason = _outcome(lambda: check(card))
    known = reason_for(name, card.name, expected or {})
    if known is not None and outcome == "failed":
        outcome, reason = "expected", known
    elif known is not None and outcome == "passed":
        outcome = "failed"
        reason = (
            f"{name}:{card.name} passes, though it was expected to fail: {known}\n  next step: take the exception out"
        )
    return Verdict(name, card.name, outcome, reason, time.perf_counter() - started, shapes=bool(missed))


def reason_for(check: str, model: str, expected: Mapping[str, str]) -> str | None:
    """The reason to call a failed check of this model expected in its verdict; None where the check is to pass.

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


def judge_family(check: Callable[[str], None], family: str) -> Verdict:
    """Reach the verdict of one check on a family as a whole; as :func:`judge`."""
    started = time.perf_counter()
    outcome, reason = _outcome(lambda: check(family))
    return Verdict(short_name(check), "", outcome, reason, time.perf_counter() - started)


def _outcome(run: Callable[[], None]) -> tuple[Outcome, str]:
    """Outcome and reason of a verdict, from the finding that running the check raises."""
    try:
        with warnings.catch_warnings(action="ignore"):  # libraries warn of their own ways; what is wrong is raised
            run()
    except SkipTest as skip:
        return "skipped", str(skip)
    except NotSupported as refusal:
        if "likely cause:" in str(refusal):
            return "refused", str(refusal)
        return "failed", f"it refuses without a reason: {refusal}"
    except ZooError as error:
        return "failed", str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the model's own code: whatever it raises is the finding
        where = raised_in(error)
        return "failed", f"{type(error).__name__}: {str(error).strip() or 'without a word'}{where and f'{_IN}{where}'}"
    return "passed", ""
