"""The guard of the benchmarks: what counts as slower than before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("benchmarks", None)
    from benchmarks import harness

    return harness


def row(harness, ours, theirs):
    sides = {"zoo": [{"cpu s": each} for each in ours], "torchvision": [{"cpu s": each} for each in theirs]}
    return harness.Row("load", "resnet18", "cpu s", sides)


@pytest.mark.parametrize(
    ("ours", "slower"),
    [((1.0, 1.1, 0.9), False), ((2.0, 2.1, 1.9), True), ((1.0, 2.0, 3.0), False), ((0.5, 0.5, 0.5), False)],
)
def test_only_a_ratio_that_falls_by_more_than_both_spreads_is_warned_of(harness, ours, slower):
    before = row(harness, (1.0, 1.1, 0.9), (4.0, 4.0, 4.0))
    found = harness.regressions([row(harness, ours, (4.0, 4.0, 4.0))], [before])
    assert bool(found) == slower


def test_the_committed_figures_are_no_slower_than_themselves(harness):
    committed = harness.read(ROOT / "benchmarks" / "results" / "figures.json")
    assert committed
    assert harness.regressions(committed, committed) == []
