"""The pytest class that runs every check on every model of a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar
from unittest import SkipTest

from zoo_core.contract.card import Card
from zoo_core.testing.checks.family import FAMILY_CHECKS, check_globs
from zoo_core.testing.choosing import Sample, cards_named, checks_of, sampled, shard, short_name
from zoo_core.testing.findings import NonConformance
from zoo_core.testing.under_test import SHAPES_ABOVE, shapes_above
from zoo_core.testing.verdicts import Verdict, declared, judge, judge_family

if TYPE_CHECKING:
    import pytest


class Conformance:
    """Subclass this as ``TestSomething``, say which family, and pytest runs every check on every model.

    What a model refuses with a reason, and what a check cannot look at, is skipped: ``pytest -rs`` says why.
    ``ZOO_SHARD=1/4`` runs the first quarter of the models.

    Attributes:
        family: Name of the family.
        models: Glob patterns of the models to check; all by default.
        tasks: The tasks whose models are checked; none means all of them.
        checks: Names of the checks, such as ``"swap"``; all of :data:`zoo_core.testing.CHECKS` by default.
        expected_failures: ``"check_name:model"`` globs to the reason, with those of ``Family.exceptions``; one that
            passes after all is an error.
        sample: Check that many models, spread over the catalogue, or one of each of the ``"kinds"``: of each class and
            head shape, for which every model is built once, without values.
        shapes_above: Models of more parameters than this are checked by their shapes alone; 0 for all of them.
        compiled: Glob patterns of the models that go through ``torch.compile``, which takes seconds for each.
    """

    family: ClassVar[str]
    models: ClassVar[Sequence[str]] = ("*",)
    tasks: ClassVar[Sequence[str]] = ("classification",)
    checks: ClassVar[Sequence[str]] = ()
    expected_failures: ClassVar[Mapping[str, str]] = {}
    sample: ClassVar[Sample | None] = None
    shapes_above: ClassVar[int] = SHAPES_ABOVE
    compiled: ClassVar[Sequence[str]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a model and check; the models are the outer loop, so that each is built once."""
        if "family_check" in metafunc.fixturenames:
            metafunc.parametrize("family_check", FAMILY_CHECKS, ids=short_name)
        if "card" not in metafunc.fixturenames:
            return
        cards = shard(sampled(cards_named(self.family, self.models, self.tasks), self.sample))
        cards_named(self.family, self.compiled)  # a name that no model has is an error, as it is above
        pairs = [(card, check) for card in cards for check in checks_of(card, self.checks, self.compiled)]
        ids = [f"{card.name}-{short_name(check)}" for card, check in pairs]
        metafunc.parametrize(("card", "check"), pairs, ids=ids)

    def test_conformance(self, card: Card, check: Callable[[Card], None]) -> None:
        """Run one check on one model."""
        with shapes_above(self.shapes_above):
            raise_for(judge(check, card, {**self.expected_failures, **declared(self.family)}))

    def test_family(self, family_check: Callable[[str], None]) -> None:
        """Run one check on the family as a whole."""
        raise_for(judge_family(family_check, self.family))
        check_globs(self.expected_failures, [card.name for card in cards_named(self.family)])


def raise_for(verdict: Verdict) -> None:
    """Turn the verdict of a check into what pytest takes: an error, a skip, or nothing.

    Raises:
        NonConformance: It failed.
        SkipTest: It was refused or skipped.
    """
    if verdict.outcome == "failed":
        raise NonConformance(verdict.reason)
    if verdict.outcome in {"refused", "skipped"}:
        raise SkipTest(f"{verdict.outcome}: {verdict.reason}")
