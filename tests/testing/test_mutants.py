"""The conformance kit finds what is wrong, and says it so that it can be put right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toys

import zoo_core as zoo
from zoo_core import testing
from zoo_core.testing import CHECKS, Conformance, NonConformance
from zoo_core.testing.specimen import _specimen


@pytest.fixture(autouse=True)
def _no_specimen_of_another_test():
    _specimen.cache_clear()
    yield
    _specimen.cache_clear()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_right_anatomy_passes(check):
    with zoo.use(toys.zoo_of()):
        check(toys.CARD)


@pytest.mark.parametrize("name", toys.MUTANTS)
def test_a_planted_defect_is_found_and_named(name):
    wrong, message = toys.MUTANTS[name]
    findings = []
    with zoo.use(toys.zoo_of(wrong)):
        for check in CHECKS:
            try:
                check(toys.CARD)
            except Exception as error:  # noqa: BLE001 - a wrong path makes later checks fail in torch; the first one counts
                findings.append(error)
    assert findings, "no check noticed"
    assert message in str(findings[0])
    assert isinstance(findings[0], zoo.ZooError) or not message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"urls": ("ftp://example.org/toy.pth",)}, "none of the schemes"),
        ({"sha256": ""}, "no digest"),
        ({"categories": ("cat", "dog")}, "2 class names for 10 classes"),
    ],
)
def test_a_malformed_weights_entry_is_named(changes, message):
    card = replace(toys.CARD, weights=(replace(toys.V1, **changes),))
    with pytest.raises(NonConformance, match=message):
        testing.check_card(card)


def test_a_norm_that_thaws_is_found(monkeypatch):
    monkeypatch.setattr("zoo_core.testing.checks.freeze", lambda model, what: zoo.freeze(model, what, norm="train"))
    with zoo.use(toys.zoo_of()), pytest.raises(NonConformance, match=r"moved while frozen: bn1\.running_mean"):
        testing.check_freeze(toys.CARD)


def test_a_backbone_that_still_trains_is_found(monkeypatch):
    monkeypatch.setattr("zoo_core.testing.checks.freeze", lambda model, _what: zoo.freeze(model, "stem"))
    with zoo.use(toys.zoo_of()), pytest.raises(NonConformance, match=r"gradients outside the head: bn1\.weight"):
        testing.check_freeze(toys.CARD)


class Expecting(Conformance):
    """Not collected: its name does not begin with Test."""

    family = "toy"
    expected_failures = {"check_card:toy": "the author knows"}  # noqa: RUF012 - as an author writes it


def test_an_expected_failure_that_fails_passes():
    card = replace(toys.CARD, weights=(replace(toys.V1, sha256=""),))
    Expecting().test_conformance(card, testing.check_card)


def test_an_expected_failure_that_passes_is_an_error():
    with pytest.raises(NonConformance, match="expected to fail: the author knows"):
        Expecting().test_conformance(toys.CARD, testing.check_card)


def test_the_swap_sets_the_attributes_that_repeat_the_class_count():
    with zoo.use(toys.zoo_of()):
        model = zoo.get("toy", weights=None, num_classes=9)
    assert (model.num_classes, model.aux.out_features) == (9, 9)
