"""What ``zoo check`` does with one family: which models and checks, their verdicts, and what an earlier run said."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from zoo_core.errors import UsageError
from zoo_core.registry.lookup_errors import unknown_task
from zoo_core.registry.zoo import current_zoo
from zoo_core.testing import choosing
from zoo_core.testing.choosing import checks_named, checks_of, short_name
from zoo_core.testing.expected_failures import check_globs, declared
from zoo_core.testing.family import FAMILY_CHECKS
from zoo_core.testing.findings import NonConformance
from zoo_core.testing.reports import Report, from_json, merged
from zoo_core.testing.under_test import SHAPES_ABOVE, forget
from zoo_core.testing.verdicts import Verdict, judge, judge_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from zoo_core.contract.card import Card

    Plan = Sequence[tuple[Card, Sequence[Callable[[Card], None]]]]


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
    """The checks of one family in a run of ``zoo check``.

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
        for card, checks in self.plan:
            for check in checks:
                if (short_name(check), card.name) not in self.earlier:
                    look(card, short_name(check))
                    yield self._add(judge(check, card, self.known))
            forget()
            done()
        self.report.complete = True

    def _add(self, verdict: Verdict) -> Verdict:
        self.report.verdicts.append(verdict)
        return verdict


def read_earlier_run(path: Path | None) -> list[Report]:
    """Reports of an earlier run of ``zoo check``, for ``--resume`` to go on from; none where it wrote none.

    Args:
        path: Of the JSON file.

    Raises:
        UsageError: It is no report of ``zoo check``.
    """
    if path is None:
        raise UsageError("--resume goes on with a report", hint="--json FILE says with which")
    if not path.exists():
        return []
    try:
        return merged(from_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} cannot be gone on with: {error}", hint="take it away to begin anew") from error


def installed_families() -> list[str]:
    """Families that a run of ``zoo check`` can check, those whose library is installed, in family order."""
    zoo = current_zoo()
    return [member.family.name for member in zoo.usable(listed=True) if not member.problem]


def known_tasks(family: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """These tasks, if the family that is checked has models of each.

    Raises:
        UnknownTask: It has none of one; those that it has are listed.
    """
    known = sorted({card.task for card in current_zoo().member(family).cards.values()})
    for task in tasks:
        if task not in known:
            raise unknown_task(task, known)
    return tasks


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
    """The report of a run of ``zoo check`` on a family, before any verdict is in it."""
    member = current_zoo().member(family)
    requires = member.family.requires
    library = f", {requires} {version(requires)}" if requires else ""
    today = datetime.now(tz=UTC).date().isoformat()
    return Report(family, f"{member.plugin.origin}{library}", len(member.cards), limit, made=today)
