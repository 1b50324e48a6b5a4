"""``zoo check``: the conformance kit from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import terminal
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.progress import Progress

    from zoo_core.card import Card
    from zoo_core.testing.reports import Report
    from zoo_core.testing.verdicts import Verdict

_MARKS = {"failed": "red", "refused": "yellow", "expected": "yellow", "skipped": "dim"}
_SHOWN = 3


def _writable(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a report that could not be written, before an hour of checks and not after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        msg = "it is a folder" if path.is_dir() else f"there is no folder {path.absolute().parent}"
        raise click.BadParameter(msg, param=option)
    return path


_FILE: dict[str, Any] = {"type": click.Path(path_type=Path), "metavar": "FILE", "callback": _writable}


@click.command()
@click.argument("family")
@click.argument("models", nargs=-1, metavar="[MODEL-GLOB]...")
@click.option("--check", "names", multiple=True, metavar="NAME", help="Only this check; may be given more than once.")
@click.option(
    "--compile", "compiled", multiple=True, metavar="GLOB", help="Put these models through torch.compile too."
)
@click.option("--task", "tasks", multiple=True, help="Only models of this task; may be given more than once.")
@click.option("--sample", metavar="N", help="Only N models, spread evenly, or one of each of the 'kinds'.")
@click.option("--shard", "share", metavar="1/4", help="Only this share of the models.  [default: $ZOO_SHARD]")
@click.option("--shapes-above", "limit", metavar="N", help="Check models of more parameters by shapes alone.")
@click.option("--expect", "expected", multiple=True, metavar="CHECK:MODEL=REASON", help="A failure that is known.")
@click.option("--json", "json_file", **_FILE, help="Write every verdict as JSON.")
@click.option("--junit", "junit_file", **_FILE, help="Write JUnit XML, for CI.")
@click.option("--markdown", "markdown_file", **_FILE, help="Write a support matrix.")
def check(
    family: str,
    models: tuple[str, ...],
    names: tuple[str, ...],
    compiled: tuple[str, ...],
    tasks: tuple[str, ...],
    sample: str | None,
    share: str | None,
    limit: str | None,
    expected: tuple[str, ...],
    **files: Path | None,
) -> None:
    """Check that the models of FAMILY keep every promise of a zoo model, and say what is wrong with those that do not.

    Nothing is downloaded: models are built untrained. Known failures are those that the family declares, and --expect.
    Exit code 1 says that a check failed, or passed though it was expected to fail.
    """
    from zoo_core.testing import choosing
    from zoo_core.testing.checks import checks_named, checks_of
    from zoo_core.testing.specimen import shapes_above

    checks_named(names)
    choosing.cards_named(family, compiled)  # before an hour of checks and not after it
    cards = choosing.cards_named(family, models, _known_tasks(family, tasks))
    _require_library(cards, family)
    cards = choosing.shard(choosing.sampled(cards, _sample(sample)), share)
    plan = [(card, checks_of(card, names, compiled)) for card in cards]
    known = _expected(family, expected)
    report = _report(family, _count(limit))
    try:
        with shapes_above(report.shapes_above), _progress() as progress:
            for verdict in _verdicts(report, plan, known, progress):
                report.verdicts.append(verdict)
                if verdict.outcome == "failed":
                    _say(progress, report.family, verdict)
        report.complete = True
    finally:  # Ctrl-C too leaves what was found so far
        _write(report, files)
        _print(report)
    if report.failed:
        sys.exit(1)


def _known_tasks(family: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    from zoo_core.misses import unknown_task
    from zoo_core.registry import current_zoo

    known = sorted({card.task for card in current_zoo().member(family).cards.values()})
    for task in tasks:
        if task not in known:
            raise unknown_task(task, known)
    return tasks


def _require_library(cards: list[Card], family: str) -> None:
    from zoo_core.registry import current_zoo

    if not cards:
        raise UsageError(f"{family} has no models to check", hint=f"zoo list --family {family} shows what it has")
    current_zoo().available(cards[0])


def _sample(text: str | None) -> Any:  # noqa: ANN401 - a number or the word, checked where it is used
    return int(text) if text and text.isdecimal() else text


def _count(text: str | None) -> int:
    """A number of parameters, such as ``300M``; the usual one when none is given."""
    from zoo_core.testing.specimen import SHAPES_ABOVE

    if text is None:
        return SHAPES_ABOVE
    unit = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isdecimal():
        raise UsageError(f"--shapes-above cannot be {text!r}", expected="a number of parameters, such as 300M or 0")
    return int(digits) * unit


def _expected(family: str, given: tuple[str, ...]) -> Mapping[str, str]:
    from zoo_core.registry import current_zoo
    from zoo_core.testing.expected import check_globs, declared
    from zoo_core.testing.specimen import NonConformance

    own = {}
    for text in given:
        glob, equals, reason = text.partition("=")
        if not (equals and reason.strip()):
            raise UsageError(f"--expect cannot be {text!r}", expected="check:model=reason, such as 'swap:net*=its ...'")
        own[glob] = reason
    try:
        check_globs(own, current_zoo().member(family).cards)
    except NonConformance as error:
        raise UsageError(error.summary) from error
    return {**own, **declared(family)}


def _report(family: str, limit: int) -> Report:
    from importlib.metadata import version

    from zoo_core.registry import current_zoo
    from zoo_core.testing.reports import Report

    member = current_zoo().member(family)
    requires = member.family.requires
    library = f", {requires} {version(requires)}" if requires else ""
    return Report(family, f"{member.plugin.origin}{library}", len(member.cards), limit)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _verdicts(
    report: Report,
    plan: Sequence[tuple[Card, Sequence[Callable[[Card], None]]]],
    known: Mapping[str, str],
    progress: Progress,
) -> Iterator[Verdict]:
    """Every verdict as it is reached: those on the family first, and then model by model."""
    from zoo_core.testing.family import FAMILY_CHECKS
    from zoo_core.testing.specimen import forget
    from zoo_core.testing.verdicts import judge, judge_family

    for family_check in FAMILY_CHECKS:
        yield judge_family(family_check, report.family)
    task = progress.add_task("", total=len(plan))
    for card, checks in plan:
        for each in checks:
            progress.update(task, description=f"{card.name}: {each.__name__.removeprefix('check_')}")
            yield judge(each, card, known)
        forget()
        progress.advance(task)


def _say(progress: Progress, family: str, verdict: Verdict) -> None:
    """A failure, as soon as it is found: on stderr, above the bar."""
    name = "/".join(part for part in (family, verdict.model) if part)
    progress.console.print(f"[red]failed[/] {name} {verdict.check}", highlight=False)
    progress.console.print(f"  {verdict.reason}", markup=False, highlight=False)


def _write(report: Report, files: Mapping[str, Path | None]) -> None:
    from zoo_core.testing import reports

    formats = {"json_file": reports.to_json, "junit_file": reports.to_junit, "markdown_file": reports.to_markdown}
    for name, path in files.items():
        if path is not None:
            path.write_text(formats[name](report), encoding="utf-8")


def _print(report: Report) -> None:
    from rich.table import Table

    from zoo_core.testing.verdicts import OUTCOMES

    console = terminal()
    table = Table("check", *OUTCOMES, box=None, pad_edge=False)
    for name, count in report.counts().items():
        cells = [f"[{_MARKS.get(each, 'green')}]{count[each]}[/]" if count[each] else "" for each in OUTCOMES]
        table.add_row(name, *cells)
    console.print(table)
    for reason, models in _reasons(report):
        console.print(f"{reason}: {_few(models)}", markup=False)
    cut = "" if report.complete else ", and the run was stopped before its end"
    console.print(f"{report.family}: {_summary(report)}{cut}")


def _summary(report: Report) -> str:
    checked, bad = len(report.checked), {verdict.model for verdict in report.failed}
    words = f"{checked} of its {report.models} models checked"
    if "" in bad:
        words += ", the family as a whole failed"
    return f"{words}, {len(bad - {''})} failed"


def _few(names: list[str]) -> str:
    shown = [name for name in names if name][:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _reasons(report: Report) -> list[tuple[str, list[str]]]:
    """Why something was neither passed nor failed, each reason once."""
    groups: dict[str, list[str]] = {}
    for verdict in report.verdicts:
        if verdict.outcome in {"refused", "expected", "skipped"}:
            line = verdict.reason.partition("\n")[0].replace(f"{report.family}/{verdict.model}", "it")
            groups.setdefault(f"{verdict.outcome} {verdict.check}, {line}", []).append(verdict.model)
    return [*groups.items()]
