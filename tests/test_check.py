"""``zoo check``: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click import unstyle
from click.testing import CliRunner
from support import toys
from support.mutants import MUTANTS

import zoo_core as zoo
from zoo_core.cli.check import check
from zoo_core.cli.check_run import Choice, Run
from zoo_core.contract.family import Family
from zoo_core.errors import UsageError
from zoo_core.registry.plugins import Plugin
from zoo_core.registry.zoo import Zoo
from zoo_core.testing.__main__ import main as put_together
from zoo_core.testing.reports import Report, from_json, merged, page, to_json, to_markdown
from zoo_core.testing.under_test import _failed, _model_under_test, shapes_above
from zoo_core.testing.verdicts import Verdict, judge

WRONG = replace(MUTANTS["aux head left as it was"].of(), name="wrong")
ORPHAN = replace(MUTANTS["digest missing"].of(), name="orphan")
QUICK = ("--check", "card", "--check", "paths", "--check", "swap")


@pytest.fixture(autouse=True)
def _no_specimen_of_another_test():
    _model_under_test.cache_clear()  # without the collection of garbage, which takes longer than most tests
    _failed.clear()
    yield
    _model_under_test.cache_clear()
    _failed.clear()


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


def read(path):
    """The one report in a file."""
    [report] = from_json(Path(path).read_text(encoding="utf-8"))
    return report


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
    report = read("all.json")
    assert report.checked == ["toy", "orphan", "needy"]
    assert {(each.model, each.check) for each in report.failed if each.model} == {
        ("orphan", "card"),
        ("needy", "paths"),
    }
    [skipped] = [each for each in report.verdicts if (each.model, each.check) == ("needy", "swap")]
    assert skipped.reason.startswith("toy/needy could not be looked at: toy/needy: its constructor asks the network")
    assert (report.complete, answer.exit_code) == (True, 1)


def typo(model):
    return model.clasifier


def test_an_error_of_the_anatomy_is_said_once_with_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = [replace(toys.CARD, name=f"toy{number}") for number in range(3)]
    with zoo.use(toys.zoo_of(typo, *others)):
        answer = run()
    assert answer.stderr.count("no attribute 'clasifier'") == 1
    assert re.search(r"test_check.py, line \d+: +return model.clasifier", " ".join(answer.stderr.split()))
    assert answer.stderr.count("failed toy/toy") == 3
    assert "failed toy/toy1 builds, as toy/toy0" in answer.stderr


def test_where_tracing_differs_is_said_and_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = MUTANTS["wrong stride"]
    with zoo.use(wrong.zoo()):
        answer = run("--check", "card", "--traced")
    assert re.search(r"toy/toy: tracing finds .*instead of \[.*\(8, 16\)\]", answer.stdout), answer.output


def test_no_model_is_kept_once_it_has_been_checked(family):
    run("toy", *QUICK)
    assert _model_under_test.cache_info().currsize == 0


@pytest.fixture
def thawed():
    """Nothing is out of garbage collection, as in a process of the command's own; the run of the tests freezes it."""
    had = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if had:
        gc.freeze()


def test_libraries_are_out_of_garbage_collection_between_models_and_in_it_after_the_run(family, thawed):
    counts = []
    with shapes_above(0):
        checked = Run.of("toy", Choice(names=("card",)))
        assert len([*checked.verdicts(lambda *_: None, lambda: counts.append(gc.get_freeze_count()))]) > 1
    assert all(counts)
    assert len(counts) == len(checked.plan)
    assert not gc.get_freeze_count()


def test_what_the_caller_took_out_of_garbage_collection_stays_out(family, thawed):
    gc.freeze()
    run("toy", "--check", "card")
    assert gc.get_freeze_count()


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
    [suite] = ET.parse("junit.xml").getroot()
    cases = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in suite}
    assert cases["toy.toy", "swap"] == []
    assert cases["toy.orphan", "card"] == ["failure"]
    assert int(suite.get("tests")) == len(cases)
    assert int(suite.get("failures")) == sum(children == ["failure"] for children in cases.values())


def test_markdown_has_a_row_for_each_check_and_a_line_for_each_exception(family):
    run("orphan", "toy", *QUICK, "--markdown", "page.md")
    text = Path("page.md").read_text()
    assert "| swap | 2 |  |  |  |  |  |" in text
    assert "| card | 1 |  | 1 |  |  |  |" in text
    assert "- **card**, `orphan`: V1: no digest at all, and no hub that declares one" in text
    assert "toy 1.0: 2 of 3 models checked" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["toy", "--all"], "takes a FAMILY, or --all"),
        (["--resume"], "--resume goes on with a report"),
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


def test_a_bar_says_on_a_terminal_how_far_the_run_is(family):
    terminal = CliRunner().invoke(check, ["toy", "toy", *QUICK], env={"FORCE_COLOR": "1", "COLUMNS": "120"})
    assert re.search(r"━+ 1/1 toy: swap 0:00:", unstyle(terminal.stderr))
    assert "━" not in run("toy", *QUICK).stderr


def test_models_that_are_named_go_through_torch_compile_too(family):
    answer = run("toy", "orphan", "--check", "card", "--compile", "t*", "--json", "report.json")
    found = [(verdict.check, verdict.model) for verdict in read("report.json").verdicts]
    assert [case for case in found if case[1]] == [("card", "toy"), ("compile", "toy"), ("card", "orphan")], answer


def test_shards_are_put_together_again_and_the_later_verdict_counts(family):
    run("orphan", "toy", *QUICK, "--shard", "1/2", "--json", "1.json")
    run("orphan", "toy", *QUICK, "--shard", "2/2", "--json", "2.json")
    halves = [read(f"{half}.json") for half in (1, 2)]
    assert [half.checked for half in halves] == [["toy"], ["orphan"]]
    (whole,) = merged(halves)
    assert sorted(whole.checked) == ["orphan", "toy"]
    assert len(whole.verdicts) == len({(each.check, each.model) for each in whole.verdicts})
    assert from_json(to_json([whole])) == [whole]
    assert "| toy | 3 | 2 | 0 | 1 |" in page([whole])


def test_a_run_that_was_stopped_says_so(family):
    run("toy", *QUICK, "--json", "all.json")
    report = read("all.json")
    assert "stopped" not in to_markdown(report)
    assert "the run was stopped before its end" in to_markdown(replace(report, complete=False))


def test_ctrl_c_leaves_a_report_of_what_was_found(family, monkeypatch):
    stopping = replace(toys.CARD, name="stopping", build=f"{__name__}:stop")
    with zoo.use(toys.zoo_of(None, toys.CARD, stopping, ORPHAN)):
        answer = run(*QUICK, "--json", "part.json")
    report = read("part.json")
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
    outcomes = {each["outcome"] for each in json.loads((tmp_path / "tiny.json").read_text())["reports"][0]["verdicts"]}
    assert outcomes == {"passed"}
    assert "tiny: 1 of its 1 models checked, 0 failed" in answer.stdout


@pytest.fixture
def families(tmp_path, monkeypatch):
    """A registry of two families that can be built, and one whose library is missing."""
    monkeypatch.chdir(tmp_path)
    tiny = Plugin("tiny", "tiny 1.0", (Family("tiny", "zoo_tiny.catalog:cards", "zoo_tiny.anatomy:anatomy"),))
    gone = Plugin(
        "gone", "gone 1.0", (Family("gone", "support.toys:cards", "support.toys:as_told", requires="no-such-library"),)
    )
    own = Zoo((*toys.zoo_of(None, toys.CARD).plugins, tiny, gone))
    own.member("gone").cards = {}
    with zoo.use(own):
        yield own


def every(*args):
    return CliRunner().invoke(check, ["--all", *QUICK, *args])


def test_all_families_are_checked_at_once_and_put_on_one_page(families):
    answer = every("--json", "all.json", "--markdown", "MODELS.md", "--junit", "all.xml")
    assert (answer.exit_code, answer.stderr.count("failed ")) == (1, 1)  # the catalogue of the toys imports torch
    page_text = Path("MODELS.md").read_text()
    assert "Checked was every model of tiny and toy." in page_text
    assert [line for line in page_text.splitlines() if line.startswith("## ")] == ["## tiny", "## toy"]
    assert [report.family for report in from_json(Path("all.json").read_text())] == ["tiny", "toy"]
    assert len(ET.parse("all.xml").getroot()) == 2


def test_options_that_are_about_the_models_of_one_family_do_not_go_with_all(families):
    for option, value in {"--task": "classification", "--compile": "toy", "--expect": "swap:toy=why"}.items():
        error = every(option, value).exception
        assert isinstance(error, UsageError)
        assert str(error) == f"{option} goes with one FAMILY, and not with --all"


def test_the_page_of_several_shards_is_that_of_one_run(families, capsys, monkeypatch):
    every("--markdown", "whole.md")
    for share in ("1/2", "2/2"):
        every("--shard", share, "--json", f"{share[0]}.json")
    monkeypatch.setattr(sys, "argv", ["zoo_core.testing", "1.json", "2.json"])
    put_together()
    assert capsys.readouterr().out == Path("whole.md").read_text()


def test_a_run_goes_on_where_it_was_stopped(family, monkeypatch):
    run("toy", "orphan", "--check", "card", "--check", "paths", "--json", "part.json")
    made = []
    monkeypatch.setattr("zoo_core.cli.check_run.judge", lambda *given: made.append(given[0]) or judge(*given))
    answer = run("toy", "orphan", *QUICK, "--json", "part.json", "--resume")
    report = read("part.json")
    assert [each.__name__ for each in made] == ["check_swap", "check_card", "check_swap"]  # of orphan the failure again
    assert {(each.check, each.model) for each in report.verdicts if each.model} == {
        (name, model) for name in ("card", "paths", "swap") for model in ("toy", "orphan")
    }
    assert answer.exit_code == 1


def test_a_report_of_another_version_is_not_gone_on_with(family):
    run("toy", "--check", "card", "--json", "part.json")
    before = read("part.json")
    Path("part.json").write_text(to_json([replace(before, origin="toy 0.9")]))
    run("toy", "--check", "paths", "--json", "part.json", "--resume")
    assert {each.check for each in read("part.json").verdicts if each.model} == {"paths"}


def test_what_is_no_report_is_not_gone_on_with(family):
    Path("part.json").write_text("[]")
    error = run("toy", "--json", "part.json", "--resume").exception
    assert isinstance(error, UsageError)
    assert "part.json cannot be gone on with: no report of zoo check" in str(error)


def test_reports_of_different_versions_are_not_put_together():
    with pytest.raises(ValueError, match=r"not of the same thing: acme 1 with 3 models and acme 2 with 3"):
        merged([Report("acme", "acme 1", 3, 0), Report("acme", "acme 2", 3, 0)])


def test_a_report_says_on_which_days_it_was_made():
    days = ("2026-11-21", "", "2026-11-19", "2026-11-20")
    [whole] = merged([Report("acme", "acme 1", 3, 0, made=day) for day in days])
    assert whole.made == "2026-11-19 to 2026-11-21"
    assert merged([whole, whole])[0].made == whole.made
    assert "acme 1: 0 of 3 models checked, 2026-11-19 to 2026-11-21; " in to_markdown(whole)


def verdicts(outcome, *models, check="swap", reason="why", shapes=False):
    return [Verdict(check, model, outcome, reason, shapes=shapes) for model in models]


def test_every_model_that_is_an_exception_is_named():
    models = [f"net{number}" for number in range(40)]
    found = [*verdicts("refused", *models), *verdicts("expected", *models[:3], check="split")]
    text = to_markdown(Report("acme", "acme 1", 40, 0, complete=True, verdicts=found))
    refused = text.partition("### Refused by zoo")[2]
    assert "- **swap**, 40 models: why\n" in refused
    assert all(f"`{name}`" in refused for name in models)
    assert "- **split**, `net0`, `net1`, `net2`: why\n" in text


def test_checks_that_say_the_same_of_the_same_models_share_a_line():
    found = [*verdicts("skipped", "a", "b", check="norms"), *verdicts("skipped", "a", "b", check="save")]
    assert "- **norms**, **save**, `a`, `b`: why\n" in to_markdown(Report("acme", "acme 1", 2, 0, verdicts=found))


def test_what_passed_by_its_shapes_alone_is_counted_apart():
    found = [*verdicts("passed", "a", "b", shapes=True), *verdicts("passed", "c")]
    assert "| swap | 3 | 2 |  |  |  |  |" in to_markdown(Report("acme", "acme 1", 3, 5, verdicts=found))


def test_the_page_says_what_was_left_out():
    text = page([Report("acme", "acme 1", 3, 0, verdicts=verdicts("passed", "a"))])
    assert "Checked was 1 of the 3 models of acme." in text
    assert re.search(r"^- \*\*swap\*\*: [^\n]*included\.$", text, re.MULTILINE)
    assert re.search(r"^- \*\*split\*\*: .* Not part of this run\.$", text, re.MULTILINE)


def test_a_zoo_without_the_family_says_what_there_is():
    with zoo.use(Zoo(())):
        assert isinstance(run("toy").exception, zoo.errors.UnknownFamily)
