"""``zoo check``: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import toys
from click.testing import CliRunner
from mutants import MUTANTS

import zoo_core as zoo
from zoo_core.cli.check import check
from zoo_core.errors import UsageError
from zoo_core.registry import Zoo
from zoo_core.testing.reports import from_json, merged, page, to_json, to_markdown
from zoo_core.testing.specimen import _specimen

WRONG = replace(MUTANTS["aux head left behind"].of(), name="wrong")
ORPHAN = replace(MUTANTS["digest missing"].of(), name="orphan")
QUICK = ("--check", "card", "--check", "paths", "--check", "swap")


@pytest.fixture(autouse=True)
def _no_specimen_of_another_test():
    _specimen.cache_clear()
    yield
    _specimen.cache_clear()


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A registry of three models: one that is right, one without a digest, and one that needs a network."""
    monkeypatch.chdir(tmp_path)
    needy = replace(MUTANTS["constructor that needs a network"].of(), name="needy")
    own = toys.zoo_of(None, toys.CARD, ORPHAN, needy)
    with zoo.use(own):
        yield own


def run(*args):
    return CliRunner().invoke(check, ["toy", *args])


def test_a_table_a_check_and_a_line_of_summary_are_printed(family):
    answer = run("toy", *QUICK)
    assert answer.stdout.splitlines()[0].split() == ["check", "passed", "failed", "refused", "expected", "skipped"]
    rows = {line.split()[0]: line.split()[1:] for line in answer.stdout.splitlines()[1:-1]}
    assert rows["swap"] == rows["paths"] == ["1"]
    assert answer.stdout.splitlines()[-1].startswith("toy: 1 of its 3 models checked")


def test_a_failure_is_told_with_its_reason_and_ends_with_exit_code_1(family):
    answer = run("orphan", *QUICK)
    assert answer.exit_code == 1
    assert "failed toy/orphan card" in answer.stderr
    assert "toy/orphan@V1: no digest at all" in answer.stderr


def test_a_model_that_fails_does_not_stop_the_run(family):
    answer = run("needy", "orphan", "toy", *QUICK, "--json", "all.json")
    report = from_json(Path("all.json").read_text())
    assert report.checked == ["toy", "orphan", "needy"]
    assert {(each.model, each.check) for each in report.failed if each.model} == {
        ("orphan", "card"),
        ("needy", "paths"),
        ("needy", "swap"),
    }
    assert (report.complete, answer.exit_code) == (True, 1)


def test_no_model_is_kept_once_it_has_been_checked(family):
    run("toy", *QUICK)
    assert _specimen.cache_info().currsize == 0


def test_an_expected_failure_is_counted_as_one_and_is_no_failure(family):
    answer = run("orphan", "--check", "card", "--expect", "card:orphan=its file is lost")
    assert "expected card, its file is lost: orphan" in answer.stdout
    assert "toy/orphan" not in answer.stderr


def test_an_expected_failure_that_passes_fails(family):
    answer = run("toy", "--check", "card", "--expect", "card:toy=its file is lost")
    assert answer.exit_code == 1
    assert "passes, though it was expected to fail: its file is lost" in answer.stderr


def test_junit_has_a_case_for_each_model_and_check(family):
    run("orphan", "toy", *QUICK, "--junit", "junit.xml")
    suite = ET.parse("junit.xml").getroot()
    cases = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in suite}
    assert cases["toy.toy", "swap"] == []
    assert cases["toy.orphan", "card"] == ["failure"]
    assert int(suite.get("tests")) == len(cases)
    assert int(suite.get("failures")) == sum(children == ["failure"] for children in cases.values())


def test_markdown_has_a_row_for_each_check_and_a_line_for_each_exception(family):
    run("orphan", "toy", *QUICK, "--markdown", "page.md")
    text = Path("page.md").read_text()
    assert "| swap | 2 |  |  |  |  |" in text
    assert "| card | 1 | 1 |  |  |  |" in text
    assert "- **card**, `orphan`: V1: no digest at all, and no hub that declares one" in text
    assert "toy 1.0: 2 of 3 models checked" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nosuch"], "toy has no model 'nosuch'"),
        (["tay"], "did you mean 'toy'"),
        (["--check", "swop"], "no such check: 'swop'; did you mean 'swap'"),
        (["--shard", "5/4"], "the share of the models cannot be '5/4'"),
        (["--sample", "none"], "sample cannot be 'none'"),
        (["--shapes-above", "many"], "--shapes-above cannot be 'many'"),
        (["--task", "clasification"], "did you mean 'classification'"),
        (["--compile", "tog"], "toy has no model 'tog'; did you mean 'toy'"),
        (["--expect", "card"], "--expect cannot be 'card'"),
        (["--expect", "crad:toy=why"], "names no check; did you mean 'card'"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_checked(family, args, message):
    answer = run(*args)
    assert isinstance(answer.exception, UsageError)
    assert message in str(answer.exception).replace("\n  next step:", ";")
    assert answer.stdout == ""


@pytest.mark.parametrize("path", [".", "nowhere/report.json"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_checked(family, path):
    answer = run("toy", "--json", path)
    assert (answer.exit_code, answer.stdout) == (2, "")


def test_a_family_whose_library_is_missing_is_refused(family):
    member = family.member("toy")
    member.__dict__["problem"] = "acme is not installed; pip install acme"
    answer = run("toy")
    assert isinstance(answer.exception, zoo.errors.FamilyUnavailable)


def test_models_that_are_named_go_through_torch_compile_too(family):
    answer = run("toy", "orphan", "--check", "card", "--compile", "t*", "--json", "report.json")
    found = [(verdict.check, verdict.model) for verdict in from_json(Path("report.json").read_text()).verdicts]
    assert [case for case in found if case[1]] == [("card", "toy"), ("compile", "toy"), ("card", "orphan")], answer


def test_shards_are_put_together_again_and_the_later_verdict_counts(family):
    run("orphan", "toy", *QUICK, "--shard", "1/2", "--json", "1.json")
    run("orphan", "toy", *QUICK, "--shard", "2/2", "--json", "2.json")
    halves = [from_json(Path(f"{half}.json").read_text()) for half in (1, 2)]
    assert [half.checked for half in halves] == [["toy"], ["orphan"]]
    (whole,) = merged(halves)
    assert sorted(whole.checked) == ["orphan", "toy"]
    assert len(whole.verdicts) == len({(each.check, each.model) for each in whole.verdicts})
    assert from_json(to_json(whole)) == whole
    assert "| toy | 3 | 2 | 2 | 0 | 1 |" in page([whole])


def test_a_run_that_was_stopped_says_so(family):
    run("toy", *QUICK, "--json", "all.json")
    report = from_json(Path("all.json").read_text())
    assert "stopped" not in to_markdown(report)
    assert "the run was stopped before its end" in to_markdown(replace(report, complete=False))


def test_ctrl_c_leaves_a_report_of_what_was_found(family, monkeypatch):
    stopping = replace(toys.CARD, name="stopping", build=f"{__name__}:stop")
    with zoo.use(toys.zoo_of(None, toys.CARD, stopping, ORPHAN)):
        answer = run(*QUICK, "--json", "part.json")
    report = from_json(Path("part.json").read_text())
    assert report.checked == ["toy", "stopping"]
    assert not report.complete
    assert "stopped before its end" in answer.stdout
    assert answer.exit_code != 0


def stop(num_classes=10):
    raise KeyboardInterrupt


def test_the_command_runs_in_a_process_of_its_own_and_on_a_real_family(tmp_path):
    command = [sys.executable, "-m", "zoo_core.cli", "check", "tiny", "--json", "tiny.json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    outcomes = {each["outcome"] for each in json.loads((tmp_path / "tiny.json").read_text())["verdicts"]}
    assert outcomes == {"passed"}
    assert "tiny: 1 of its 1 models checked, 0 failed" in answer.stdout


def test_a_zoo_without_the_family_says_what_there_is():
    with zoo.use(Zoo(())):
        assert isinstance(run("toy").exception, zoo.errors.UnknownFamily)
