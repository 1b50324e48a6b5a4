"""``zoo check``: the conformance kit from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.completion import complete_family
from zoo_core.cli.console import terminal
from zoo_core.cli.out_file import OutFile
from zoo_core.errors import UsageError
from zoo_core.utils.atomic_write import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from zoo_core.cli.check_run import Choice, Run
    from zoo_core.testing.reports import Report
    from zoo_core.testing.verdicts import Verdict

_MARKS = {"failed": "red", "refused": "yellow", "expected": "yellow", "skipped": "dim"}
_SHOWN = 3
_OF_ONE = {"compiled": "--compile", "tasks": "--task", "expected": "--expect"}
"""Options whose names mean something in one family only."""
_OF_CHECKS = {
    "names": "--check",
    "compiled": "--compile",
    "sample": "--sample",
    "share": "--shard",
    "limit": "--shapes-above",
    "expected": "--expect",
}
"""Options that say how models are checked."""
_SAVED = 400
"""New verdicts after which the JSON file is written again: those of about 25 models."""


_FILE: dict[str, Any] = {"type": OutFile(), "metavar": "FILE"}


@click.command()
@click.argument("family", required=False, shell_complete=complete_family)
@click.argument("models", nargs=-1, metavar="[MODEL-GLOB]...")
@click.option("--all", "every", is_flag=True, help="Check every family whose library is installed.")
@click.option("--check", "names", multiple=True, metavar="NAME", help="Only this check; may be given more than once.")
@click.option(
    "--compile", "compiled", multiple=True, metavar="GLOB", help="Put these models through torch.compile too."
)
@click.option("--task", "tasks", multiple=True, help="Only models of this task; may be given more than once.")
@click.option("--sample", metavar="N", help="Only N models, spread evenly, or one of each of the 'kinds'.")
@click.option("--shard", "share", metavar="1/4", help="Only this share of the models.  [default: $ZOO_SHARD]")
@click.option("--shapes-above", "limit", metavar="N", help="Check models of more parameters by shapes alone.")
@click.option("--expect", "expected", multiple=True, metavar="CHECK:MODEL=REASON", help="A failure that is known.")
@click.option("--traced", is_flag=True, help="Say too where tracing finds something else than an anatomy says.")
@click.option("--digests", is_flag=True, help="Check nothing: fetch what has no whole SHA-256, and print it.")
@click.option("--json", "json_file", **_FILE, help="Write every verdict as JSON.")
@click.option("--resume", is_flag=True, help="Keep what that file says already, but for failures.")
@click.option("--junit", "junit_file", **_FILE, help="Write JUnit XML, for CI.")
@click.option("--markdown", "markdown_file", **_FILE, help="Write a support matrix; with --all, the page of them all.")
def check(
    family: str | None,
    *,
    every: bool,
    resume: bool,
    traced: bool,
    digests: bool,
    json_file: Path | None,
    **chosen: Any,
) -> None:
    """Check that the models of FAMILY keep every promise of a zoo model, and say what is wrong with those that do not.

    Nothing is downloaded: models are built untrained. Known failures are those that the family declares, and --expect.
    Exit code 1 says that a check failed, or passed though it was expected to fail.

    With --digests no model is checked: the weights without a whole SHA-256 are fetched into the cache, trusting what
    comes first, and printed as lines for their cards. Exit code 1 says that one could not be had.
    """
    from zoo_core.cli.check_run import Choice, Run, installed_families, read_earlier_run

    files = {"json": json_file, "junit": chosen.pop("junit_file"), "markdown": chosen.pop("markdown_file")}
    choice = Choice(**chosen)
    _check_usage(family, choice, every=every)
    if digests:
        _run_digests(family or "", choice, {**files, "resume": resume, "traced": traced, "all": every})
        return
    earlier = read_earlier_run(json_file) if resume else []
    runs = [Run.of(each, choice, earlier) for each in ([family] if family else installed_families())]
    _check(runs, choice, files, every=every)
    if traced:
        _compare_with_traced(runs)
    if any(run.report.failed for run in runs):
        sys.exit(1)


def _check_usage(family: str | None, choice: Choice, *, every: bool) -> None:
    """Refuse ``zoo check`` without a family and without ``--all``, or with options that do not go together."""
    if every == (family is not None):
        raise UsageError("zoo check takes a FAMILY, or --all", hint="zoo plugins lists the families")
    given = [option for name, option in _OF_ONE.items() if getattr(choice, name)]
    if every and given:
        raise UsageError(f"{given[0]} goes with one FAMILY, and not with --all")


def _run_digests(family: str, choice: Choice, others: Mapping[str, Any]) -> None:
    """Do what the command ``zoo check`` does with ``--digests``; exit code 1 says that a file could not be had."""
    from zoo_core.cli.check_digests import print_digests, require_alone
    from zoo_core.cli.check_run import known_tasks
    from zoo_core.testing.choosing import cards_named

    require_alone(f"--{name}" for name, value in others.items() if value and name != "json")
    require_alone(option for name, option in _OF_CHECKS.items() if getattr(choice, name))
    cards = cards_named(family, choice.models, known_tasks(family, choice.tasks))
    if not print_digests(family, cards, others["json"]):
        sys.exit(1)


def _check(runs: Sequence[Run], choice: Choice, files: Mapping[str, Path | None], *, every: bool) -> None:
    """Make the checks of the command ``zoo check``, and write and print what was found even where Ctrl-C ends them."""
    from zoo_core.testing.under_test import shapes_above

    reports, said = [run.report for run in runs], dict[tuple[str, str], str]()
    try:
        with shapes_above(choice.shapes_above), _progress() as progress:
            for run in runs:
                for number, verdict in enumerate(_with_progress(run, progress), 1):
                    if verdict.outcome == "failed":
                        _say(progress, run.report.family, verdict, said)
                    if number % _SAVED == 0:
                        _write(reports, {"json": files["json"]})
                _write(reports, {"json": files["json"]})
    finally:
        _write(reports, files, page=every)
        for report in reports:
            _print(report)


def _compare_with_traced(runs: Sequence[Run]) -> None:
    """Print for ``zoo check --traced`` where tracing differs from the family's anatomy: one of the two is wrong."""
    from zoo_core.testing.traced import compared

    for card in (card for run in runs for card, _ in run.plan):
        if note := compared(card).note:
            terminal().print(f"{card.id}: tracing finds {note}", markup=False, highlight=False, soft_wrap=True)


def _with_progress(run: Run, progress: Progress) -> Iterator[Verdict]:
    """The verdicts of the command ``zoo check`` as they come, with a progress bar."""
    task = progress.add_task(run.report.family, total=len(run.plan))
    yield from run.verdicts(
        look=lambda card, name: progress.update(task, description=f"{card.name}: {name}"),
        done=lambda: progress.advance(task),
    )


def _progress() -> Progress:
    """The progress bar of ``zoo check``, which is drawn only on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = terminal(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _say(progress: Progress, family: str, verdict: Verdict, said: dict[tuple[str, str], str]) -> None:
    """Print a failed check on stderr, as soon as it is found, above the bar; a repeated one by its first model."""
    from rich.markup import escape

    name = "/".join(part for part in (family, verdict.model) if part)
    first = said.setdefault((family, verdict.reason.replace(name, "it")), name)
    again = f", as {escape(first)}" if first != name else ""
    progress.console.print(f"[red]failed[/] {escape(name)} {verdict.check}{again}", highlight=False)
    if not again:
        progress.console.print(f"  {verdict.reason}", markup=False, highlight=False)


def _write(reports: Sequence[Report], files: Mapping[str, Path | None], *, page: bool = False) -> None:
    """Write the reports of the command ``zoo check`` as JSON, JUnit or Markdown."""
    from zoo_core.testing.reports import page as page_of
    from zoo_core.testing.reports import to_json, to_junit, to_markdown

    for name, path in files.items():
        if path is None:
            continue
        if name == "markdown":
            text = page_of(reports) if page else to_markdown(reports[0])
        else:
            text = {"json": to_json, "junit": to_junit}[name](reports)
        with whole_file(path) as new:  # a run that is killed while it writes leaves the last whole file
            new.write_text(text, encoding="utf-8")


def _print(report: Report) -> None:
    """Print for the command ``zoo check`` each check with its outcomes, and why some did not pass."""
    from rich.table import Table

    from zoo_core.testing.verdicts import OUTCOMES

    console = terminal()
    table = Table("check", *OUTCOMES, box=None, pad_edge=False)
    for name, count in report.counts().items():
        cells = [f"[{_MARKS.get(each, 'green')}]{count[each]}[/]" if count[each] else "" for each in OUTCOMES]
        table.add_row(name, *cells)
    console.print(table)
    for reason, models in _distinct_reasons(report):
        console.print(f"{reason}: {_name_few(models)}", markup=False)
    cut = "" if report.complete else ", and the run was stopped before its end"
    console.print(f"{report.family}: {_summary(report)}{cut}")


def _summary(report: Report) -> str:
    """Last line that ``zoo check`` prints of a family: how many models were checked, and how many of them failed."""
    checked, bad = len(report.checked), {verdict.model for verdict in report.failed}
    words = f"{checked} of its {report.models} models checked"
    if "" in bad:
        words += ", the family as a whole failed"
    return f"{words}, {len(bad - {''})} failed"


def _name_few(names: list[str]) -> str:
    """Names of the first few models with the same finding of ``zoo check``, and how many more there are."""
    shown = [name for name in names if name][:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _distinct_reasons(report: Report) -> list[tuple[str, list[str]]]:
    """Reasons that ``zoo check`` prints for a check that neither passed nor failed, each once."""
    groups: dict[str, list[str]] = {}
    for verdict in report.verdicts:
        if verdict.outcome in {"refused", "expected", "skipped"}:
            line = verdict.reason.partition("\n")[0].replace(f"{report.family}/{verdict.model}", "it")
            groups.setdefault(f"{verdict.outcome} {verdict.check}, {line}", []).append(verdict.model)
    return [*groups.items()]
