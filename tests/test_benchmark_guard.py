"""The guard of the benchmarks: what counts as slower than before."""

from __future__ import annotations

import argparse
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


def test_no_round_begins_after_the_time_for_a_row_but_two_are_made(harness, monkeypatch):
    monkeypatch.setenv("ZOO_BENCH_SECONDS", "0")
    assert list(harness.rounds_in_time(9)) == [0, 1]
    monkeypatch.delenv("ZOO_BENCH_SECONDS")
    assert list(harness.rounds_in_time(9)) == [*range(9)]


def test_a_run_that_was_stopped_goes_on_and_a_row_that_fails_ends_nothing(harness, monkeypatch, tmp_path, capsys):
    journal = tmp_path / "rows.jsonl"
    monkeypatch.setenv("ZOO_BENCH_JOURNAL", str(journal))
    first, second = row(harness, (1.0,), (2.0,)), row(harness, (3.0,), (4.0,))
    first.case, second.case = "first", "second"

    def broken():
        raise RuntimeError("no such file")

    assert harness.measured([("first", lambda: first), ("second", broken)]) == [first]
    assert "second failed" in capsys.readouterr().err
    with journal.open("a") as file:
        file.write('{"section": "lo')  # it was killed
    assert harness.measured([("first", broken), ("second", lambda: second)]) == [first, second]
    assert harness.journal(journal) == [first, second]
    with pytest.raises(SystemExit, match="no row"):
        harness.measured([("third", broken)])


def test_a_benchmark_that_has_ended_is_not_run_again_and_one_that_takes_too_long_is_ended(harness, tmp_path):
    from benchmarks.__main__ import Part

    options = argparse.Namespace(seconds=1, limit=0)
    part = Part("part", ("harness",))
    assert part.text(tmp_path, options).startswith("part did not end in 0 s")
    options.limit = 60
    assert part.text(tmp_path, options) == ""
    (tmp_path / "part.md").write_text("kept")
    assert part.text(tmp_path, options) == "kept"


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


def test_quartiles_of_one_round_are_its_ratio(harness):
    assert harness.quartiles([1.5]) == (1.5, 1.5, 1.5)
