"""A run of ``zoo check``: which models and checks, their verdicts, what an earlier run said, and what is printed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.cli.console import terminal
from zoo_core.errors import UsageError
from zoo_core.registry.zoo import current_zoo
from zoo_core.testing import choosing
from zoo_core.testing.checks.family import FAMILY_CHECKS, check_globs
from zoo_core.testing.choosing import checks_named, checks_of, known_tasks, short_name
from zoo_core.testing.findings import NonConformance
from zoo_core.testing.reports import Report, merged, write_reports
from zoo_core.testing.under_test import SHAPES_ABOVE, forget, shapes_above
from zoo_core.testing.verdicts import OUTCOMES, Verdict, declared, judge, judge_family
from zoo_core.text import first_few

if TYPE_CHECKING:
    from rich.progress import Progress

    from zoo_core.contract.card import Card

    Plan = Sequence[tuple[Card, Sequence[Callable[[Card], None]]]]

_MARKS = {"failed": "red", "refused": "yellow", "expected": "yellow", "skipped": "dim"}
_SHOWN = 3
_SAVED = 400
"""New verdicts after which the JSON file is written again: those of about 25 models."""


@dataclass(frozen=True)
class Choice:
    """What a run of ``zoo check`` looks at, and how: the options of the command, by their names there.

    Attributes:
        models: Globs over model names; none means all.
        names: Of the checks; none means all.
        compiled: Globs over the models that go through ``torch.compile`` too.
        tasks: Only models of these; none means any.
        sample: How many models, or ``"kinds"``.
        share: Such as ``"1/4"``.
        limit: Parameters, such as ``"300M"``, beyond which only shapes are checked.
        expected: ``"check:model=reason"`` each.
    """

    models: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    sample: str | None = None
    share: str | None = None
    limit: str | None = None
    expected: tuple[str, ...] = ()

    @property
    def shapes_above(self) -> int:
        """Number that ``zoo check`` reads from ``limit``: models above it run by their shapes alone.

        Raises:
            UsageError: It is no number of parameters.
        """
        if self.limit is None:
            return SHAPES_ABOVE
        unit = {"k": 10**3, "m": 10**6, "b": 10**9}.get(self.limit[-1:].lower(), 1)
        digits = self.limit[:-1] if unit > 1 else self.limit
        if not digits.isdecimal():
            raise UsageError(
                f"--shapes-above cannot be {self.limit!r}", expected="a number of parameters, such as 300M or 0"
            )
        return int(digits) * unit


@dataclass
class Run:
    """One run of ``zoo check`` on one family: its models and checks, what an earlier run said, and the report so far.

    Attributes:
        report: What was found so far.
        plan: Each model with its checks.
        known: ``"check:model"`` globs to the reasons why they are expected to fail.
        earlier: What an earlier run said, by check and model; its failures are looked at again.
    """

    report: Report
    plan: Plan
    known: Mapping[str, str]
    earlier: Mapping[tuple[str, str], Verdict] = field(default_factory=dict)

    @classmethod
    def of(cls, family: str, choice: Choice, earlier: Sequence[Report] = ()) -> Run:
        """The run that was requested, after everything that may be wrong with it was looked for.

        Args:
            family: Its name.
            choice: What of it is checked.
            earlier: What the last run wrote. That of another version, or of another limit, is not gone on with.

        Raises:
            UsageError: A choice means nothing here.
            UnknownFamily: There is no such family.
            FamilyUnavailable: Its library is missing.
        """
        checks_named(choice.names)
        choosing.cards_named(family, choice.compiled)  # before an hour of checks and not after it
        cards = choosing.cards_named(family, choice.models, known_tasks(family, choice.tasks))
        if not cards:
            raise UsageError(f"{family} has no models to check", hint=f"zoo list --family {family} shows what it has")
        current_zoo().available(cards[0])
        sample: Any = int(choice.sample) if choice.sample and choice.sample.isdecimal() else choice.sample
        cards = choosing.shard(choosing.sampled(cards, sample), choice.share)
        plan = [(card, checks_of(card, choice.names, choice.compiled)) for card in cards]
        report = _empty_report(family, choice.shapes_above)
        kind = (report.family, report.origin, report.models, report.shapes_above)
        same = [each for each in earlier if (each.family, each.origin, each.models, each.shapes_above) == kind]
        said = {(each.check, each.model): each for known in same for each in known.verdicts}
        again = {(short_name(check), card.name) for card, checks in plan for check in checks}
        again |= {(short_name(check), "") for check in FAMILY_CHECKS}
        kept = {key: each for key, each in said.items() if each.outcome != "failed" or key not in again}
        if kept:
            report.verdicts, report.made = [*kept.values()], merged([*same, report])[0].made
        return cls(report, plan, _expected_failures(family, choice.expected), kept)

    def verdicts(self, look: Callable[[Card, str], None], done: Callable[[], None]) -> Iterator[Verdict]:
        """Every new verdict as it is reached, which is in the report by then: on the family first, then on each model.

        Args:
            look: Called with a model and the name of a check before that is made.
            done: Called when a model is finished.
        """
        for family_check in FAMILY_CHECKS:
            if (short_name(family_check), "") not in self.earlier:
                yield self._add(judge_family(family_check, self.report.family))
        with _libraries_frozen() as freeze:
            for card, checks in self.plan:
                for check in checks:
                    if (short_name(check), card.name) not in self.earlier:
                        look(card, short_name(check))
                        yield self._add(judge(check, card, self.known))
                forget()
                freeze()
                done()
        self.report.complete = True

    def _add(self, verdict: Verdict) -> Verdict:
        self.report.verdicts.append(verdict)
        return verdict


@contextmanager
def _libraries_frozen() -> Iterator[Callable[[], object]]:
    """In a run of ``zoo check``, a function that takes what is there out of garbage collection, until the block ends.

    A model needs several collections, and each would look at all that its library and torch have made.
    """
    if gc.get_freeze_count():  # the caller does so already
        yield lambda: None
        return
    try:
        yield gc.freeze
    finally:
        gc.unfreeze()


def _expected_failures(family: str, given: tuple[str, ...]) -> Mapping[str, str]:
    """The failures that a run of ``zoo check`` expects, by the options ``--expect`` and by the family itself."""
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


def _empty_report(family: str, limit: int) -> Report:
    """The report that a run of ``zoo check`` on a family begins with, before any verdict is in it."""
    member = current_zoo().member(family)
    requires = member.family.requires
    library = f", {requires} {version(requires)}" if requires else ""
    today = datetime.now(tz=UTC).date().isoformat()
    return Report(family, f"{member.plugin.origin}{library}", len(member.cards), limit, made=today)


def run_checks(runs: Sequence[Run], choice: Choice, files: Mapping[str, Path | None], *, every: bool) -> None:
    """Make the checks of a run of ``zoo check``, and write and print what was found even where Ctrl-C ends them."""
    reports, said = [run.report for run in runs], dict[tuple[str, str], str]()
    try:
        with shapes_above(choice.shapes_above), _progress() as progress:
            for run in runs:
                for number, verdict in enumerate(_with_progress(run, progress), 1):
                    if verdict.outcome == "failed":
                        _say(progress, run.report.family, verdict, said)
                    if number % _SAVED == 0:
                        write_reports(reports, {"json": files["json"]})
                write_reports(reports, {"json": files["json"]})
    finally:
        write_reports(reports, files, as_page=every)
        for report in reports:
            _print(report)


def compare_with_traced(runs: Sequence[Run]) -> None:
    """Print at the end of a run of ``zoo check --traced`` where tracing and anatomy differ: one of the two is wrong."""
    from zoo_core.testing.traced import compared

    for card in (card for run in runs for card, _ in run.plan):
        if note := compared(card).note:
            terminal().print(f"{card.id}: tracing finds {note}", markup=False, highlight=False, soft_wrap=True)


def _with_progress(run: Run, progress: Progress) -> Iterator[Verdict]:
    """Verdicts as they come in a run of ``zoo check``, with a progress bar printed meanwhile."""
    task = progress.add_task(run.report.family, total=len(run.plan))
    yield from run.verdicts(
        look=lambda card, name: progress.update(task, description=f"{card.name}: {name}"),
        done=lambda: progress.advance(task),
    )


def _progress() -> Progress:
    """The progress bar of a run of ``zoo check``, which is drawn only on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = terminal(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _say(progress: Progress, family: str, verdict: Verdict, said: dict[tuple[str, str], str]) -> None:
    """Print a failed check on stderr as soon as the run finds it, above the bar; a repeated one by its first model."""
    from rich.markup import escape

    name = "/".join(part for part in (family, verdict.model) if part)
    first = said.setdefault((family, verdict.reason.replace(name, "it")), name)
    again = f", as {escape(first)}" if first != name else ""
    progress.console.print(f"[red]failed[/] {escape(name)} {verdict.check}{again}", highlight=False)
    if not again:
        progress.console.print(f"  {verdict.reason}", markup=False, highlight=False)


def _print(report: Report) -> None:
    """Print for a run of ``zoo check`` each check with its outcomes, and why some did not pass."""
    from rich.table import Table

    console = terminal()
    table = Table("check", *OUTCOMES, box=None, pad_edge=False)
    for name, count in report.counts().items():
        cells = [f"[{_MARKS.get(each, 'green')}]{count[each]}[/]" if count[each] else "" for each in OUTCOMES]
        table.add_row(name, *cells)
    console.print(table)
    for reason, models in _distinct_reasons(report):
        console.print(f"{reason}: {first_few([name for name in models if name], _SHOWN)}", markup=False)
    cut = "" if report.complete else ", and the run was stopped before its end"
    console.print(f"{report.family}: {_summary(report)}{cut}")


def _summary(report: Report) -> str:
    """Last line that a run of ``zoo check`` prints on a family: how many models were checked, and how many failed."""
    checked, bad = len(report.checked), {verdict.model for verdict in report.failed}
    words = f"{checked} of its {report.models} models checked"
    if "" in bad:
        words += ", the family as a whole failed"
    return f"{words}, {len(bad - {''})} failed"


def _distinct_reasons(report: Report) -> list[tuple[str, list[str]]]:
    """What a run of ``zoo check`` prints of checks that neither passed nor failed: each reason once, and its models."""
    groups: dict[str, list[str]] = {}
    for verdict in report.verdicts:
        if verdict.outcome in {"refused", "expected", "skipped"}:
            line = verdict.reason.partition("\n")[0].replace(f"{report.family}/{verdict.model}", "it")
            groups.setdefault(f"{verdict.outcome} {verdict.check}, {line}", []).append(verdict.model)
    return [*groups.items()]
