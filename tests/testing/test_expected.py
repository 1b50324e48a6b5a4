"""Expected failures: known to the author, with a reason, and an error as soon as they pass."""

from __future__ import annotations

from dataclasses import replace
from unittest import SkipTest

import pytest
from support import toys
from support.mutants import MUTANTS

import zoo_core as zoo
from zoo_core.testing import Conformance, NonConformance, check_card, check_exceptions, check_split, check_swap, judge

KNOWN = {"card:toy": "the author knows"}
OF_THE_FAMILY = {"card:t*": "the family knows"}
MISSPELT = {"crad:toy": "the author knows"}
NO_MAPPING = ["card:toy"]


class Expecting(Conformance):
    """Not collected: its name does not begin with Test."""

    family = "toy"
    expected_failures = KNOWN


def test_an_expected_failure_that_fails_passes():
    mutant = MUTANTS["digest missing"]
    with zoo.use(mutant.zoo()):
        Expecting().test_conformance(mutant.of(), check_card)
        assert judge(check_card, mutant.of(), KNOWN).outcome == "expected"


def test_an_expected_failure_that_passes_is_an_error_with_the_reason_it_had():
    with zoo.use(toys.zoo_of()):
        with pytest.raises(NonConformance, match="card:toy passes, though it was expected to fail: the author knows"):
            Expecting().test_conformance(toys.CARD, check_card)
        assert judge(check_card, toys.CARD, KNOWN).outcome == "failed"


def test_the_name_of_a_check_may_be_written_as_its_function():
    mutant = MUTANTS["digest missing"]
    with zoo.use(mutant.zoo()):
        assert judge(check_card, mutant.of(), {"check_card:*": "known"}).reason == "known"


def test_an_expected_failure_says_nothing_of_another_check():
    mutant = MUTANTS["aux head left as it was"]
    with zoo.use(mutant.zoo()):
        assert judge(check_swap, mutant.of(), KNOWN).outcome == "failed"


def test_a_family_may_declare_its_own():
    mutant = MUTANTS["digest missing"]
    with zoo.use(toys.zoo_of(None, mutant.of(), exceptions=f"{__name__}:OF_THE_FAMILY")):
        Plain.test_conformance(Plain(), mutant.of(), check_card)
        check_exceptions("toy")


class Plain(Conformance):
    """As Expecting, without exceptions of its own."""

    family = "toy"


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("MISSPELT", "'crad:toy' names no check; did you mean 'card'?"),
        ("NO_MAPPING", "is a list, not a mapping"),
        ("NOWHERE", "does not load"),
    ],
)
def test_a_family_that_declares_nonsense_is_told(where, says):
    with zoo.use(toys.zoo_of(exceptions=f"{__name__}:{where}")), pytest.raises(NonConformance, match=says):
        check_exceptions("toy")


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"card:toyy": "why"}, "names no model; did you mean 'toy'"),
        ({"card": "why"}, "names no model; write it as 'check:model'"),
        ({"card:toy": " "}, "has no reason"),
        ({"*:*": "why"}, "is every check of every model"),
    ],
)
def test_an_expected_failure_of_nothing_is_an_error(known, says):
    class Wrong(Conformance):
        family = "toy"
        expected_failures = known

    with zoo.use(toys.zoo_of()), pytest.raises(NonConformance, match=says):
        Wrong().test_family(lambda _: None)


def indivisible(model):
    return replace(toys.anatomy(model), features=None, pool=None, indivisible="its scores are weighted by its images")


def test_what_zoo_refuses_with_a_reason_is_skipped_with_that_reason():
    card = replace(toys.CARD, build="support.odd_toys:Weighted")
    with zoo.use(toys.zoo_of(indivisible, card)):
        verdict = judge(check_split, card)
        with pytest.raises(SkipTest, match="refused: this Weighted cannot be split"):
            Plain().test_conformance(card, check_split)
    assert verdict.outcome == "refused"
    assert "its scores are weighted by its images" in verdict.reason
