"""Which models are checked: by name, as a sample, and as the share of one machine; and how, by values or by shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import odd_toys, toys

import zoo_core as zoo
from zoo_core.errors import UsageError
from zoo_core.testing import (
    CHECKS,
    NotChecked,
    check_freeze,
    check_in_channels,
    check_state,
    check_twins,
    judge,
    model_under_test,
    shapes_above,
)
from zoo_core.testing.choosing import cards_named, sampled, shard

CARDS = [replace(toys.CARD, name=f"toy{index}") for index in range(10)]


def names(cards):
    return [card.name for card in cards]


def test_all_shards_together_are_all_models_and_none_twice():
    shares = [names(shard(CARDS, f"{index}/3")) for index in (1, 2, 3)]
    assert sorted(name for share in shares for name in share) == names(CARDS)
    assert {len(share) for share in shares} == {3, 4}


def test_the_environment_may_say_which_shard(monkeypatch):
    monkeypatch.setenv("ZOO_SHARD", "2/5")
    assert names(shard(CARDS)) == ["toy1", "toy6"]


@pytest.mark.parametrize("share", ["0/4", "5/4", "1/0", "1", "a/b", "-1/4", "1/4/2"])
def test_an_impossible_shard_is_refused(share, monkeypatch):
    with pytest.raises(UsageError, match="cannot be"):
        shard(CARDS, share)
    monkeypatch.setenv("ZOO_SHARD", share)
    with pytest.raises(UsageError, match="ZOO_SHARD"):
        shard(CARDS)


def test_a_sample_is_spread_evenly_and_the_same_every_time():
    assert names(sampled(CARDS, 3)) == names(sampled(CARDS, 3)) == ["toy0", "toy3", "toy6"]
    assert names(sampled(CARDS, 99)) == names(CARDS)


@pytest.mark.parametrize("sample", [0, -1, "kind"])
def test_an_impossible_sample_is_refused(sample):
    with pytest.raises(UsageError, match="sample cannot be"):
        sampled(CARDS, sample)


class Other(toys.Toy):
    """Another class with the same layers."""


def test_one_of_each_kind_is_the_smallest_of_each_class():
    cards = [
        replace(toys.CARD, name="big", parameters=9_999),
        replace(toys.CARD, name="small", parameters=999),
        replace(toys.CARD, name="other", build=f"{__name__}:Other"),
        replace(toys.CARD, name="broken", build="nowhere:at_all"),
    ]
    with zoo.use(toys.zoo_of(None, *cards)):
        assert names(sampled(cards, "kinds")) == ["small", "other", "broken"]


def test_models_are_named_by_globs_and_a_name_that_is_none_is_refused_with_close_matches():
    with zoo.use(toys.zoo_of(None, *CARDS)):
        assert names(cards_named("toy", ["toy[12]", "toy/toy7"])) == ["toy1", "toy2", "toy7"]
        with pytest.raises(UsageError, match="toy has no model 'tay1'"):
            cards_named("toy", ["tay1"])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_passes_by_shapes_alone_or_says_that_it_needs_values(check):
    card = replace(toys.CARD, parameters=sum(p.numel() for p in toys.Toy().parameters()))
    with zoo.use(toys.zoo_of(None, card)), shapes_above(0):
        assert model_under_test(card).conv1.weight.is_meta
        verdict = judge(check, card)
    needs_values = check.__name__ in {"check_branch", "check_norms", "check_save", "check_values"}
    assert verdict.outcome == ("skipped" if needs_values else "passed"), verdict.reason
    by_values = ("forward", "features", "split", "training", "swap", "in_channels", "twins")
    compares = check.__name__.removeprefix("check_") in by_values
    assert verdict.shapes is (needs_values or compares)


def test_what_is_compared_by_its_values_is_not_said_to_be_compared_by_shapes():
    with zoo.use(toys.zoo_of()):
        assert not any(judge(check, toys.CARD).shapes for check in CHECKS)


def test_a_check_that_needs_values_says_so_itself():
    card = replace(toys.CARD, parameters=10**10)
    with (
        zoo.use(toys.zoo_of(None, card)),
        pytest.raises(NotChecked, match="by its shapes alone, as all models of more than 300,000,000 parameters"),
    ):
        zoo_testing_norms(card)


def zoo_testing_norms(card):
    from zoo_core.testing import check_norms

    check_norms(card)


def copied(state, model):
    """As a library's own loader does, which builds a model and copies the file into it."""
    theirs = toys.Toy().state_dict()
    return {name: theirs[name].copy_(tensor) for name, tensor in state.items() if name in theirs}


def shifted(state, model):
    """The same, and wrong."""
    return {name: tensor + 1 for name, tensor in copied(state, model).items()}


@pytest.mark.parametrize(("convert", "outcome"), [("copied", "passed"), ("shifted", "failed")])
def test_a_conversion_that_needs_values_is_given_some_where_the_rest_is_checked_by_shapes(convert, outcome):
    weights = replace(toys.V1, convert=f"{__name__}:{convert}")
    card = replace(toys.CARD, parameters=10**6, weights=(weights,))
    with zoo.use(toys.zoo_of(None, card)), shapes_above(0):
        assert judge(check_state, card).outcome == outcome


def test_a_conversion_that_needs_values_is_not_checked_on_a_model_too_large_for_that(monkeypatch):
    monkeypatch.setattr("zoo_core.testing.checks.loading.SHAPES_ABOVE", 10)
    card = replace(toys.CARD, parameters=10**6, weights=(replace(toys.V1, convert=f"{__name__}:copied"),))
    with zoo.use(toys.zoo_of(None, card)), shapes_above(0):
        verdict = judge(check_state, card)
    assert verdict.outcome == "skipped"
    assert "fails without values" in verdict.reason


@pytest.mark.parametrize("most", [0, 10**9])
def test_a_model_that_cannot_be_pickled_once_it_ran_is_found_by_shapes_as_by_values(most):
    card = replace(toys.CARD, build="support.mutants:Hooking", parameters=10**6)
    with zoo.use(toys.zoo_of(None, card)), shapes_above(most):
        verdict = judge(check_twins, card)
    assert verdict.outcome == "failed"
    assert "pickle fails" in verdict.reason


def test_a_detector_keeps_its_values_where_others_are_checked_by_shapes():
    card = replace(toys.CARD, build="support.odd_toys:Detector", task="detection", parameters=10**6)
    with zoo.use(toys.zoo_of(odd_toys.detector(), card)), shapes_above(0):
        assert not model_under_test(card).conv1.weight.is_meta
        assert judge(check_freeze, card).outcome == "passed"


@pytest.mark.parametrize(("build", "outcome"), [("Unshuffled", "passed"), ("Mixed", "refused")])
def test_a_stem_that_has_to_be_watched_is_watched_where_the_rest_is_checked_by_shapes(build, outcome):
    card = replace(toys.CARD, build=f"support.odd_toys:{build}", parameters=10**6)
    with zoo.use(toys.zoo_of(odd_toys.unshuffled, card)), shapes_above(0):
        verdict = judge(check_in_channels, card)
    assert verdict.outcome == outcome, verdict.reason
    assert "meta device" not in verdict.reason
