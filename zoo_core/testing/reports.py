"""What all checks said, as JSON, as JUnit XML, and as a Markdown support matrix."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from zoo_core.testing.verdicts import OUTCOMES, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_FORMAT = 1
_SHOWN = 6


@dataclass
class Report:
    """The verdicts on one family.

    Attributes:
        family: Its name.
        origin: Plugin and library with their versions.
        models: How many models the family has.
        shapes_above: Models of more parameters than this were checked by their shapes alone.
        complete: Whether the run came to its end.
        verdicts: In the order in which they were reached.
    """

    family: str
    origin: str
    models: int
    shapes_above: int
    complete: bool = False
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts that make the run a failure."""
        return [verdict for verdict in self.verdicts if verdict.outcome == "failed"]

    @property
    def checked(self) -> list[str]:
        """The models that were looked at, in order."""
        return [*dict.fromkeys(verdict.model for verdict in self.verdicts if verdict.model)]

    def counts(self) -> dict[str, Counter[str]]:
        """How often each check ended how."""
        found: dict[str, Counter[str]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.check, Counter())[verdict.outcome] += 1
        return found


def to_json(report: Report) -> str:
    """A report as JSON, for :func:`from_json` and other programs."""
    return json.dumps({"format": _FORMAT, **asdict(report)}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Report:
    """The report that :func:`to_json` wrote.

    Raises:
        ValueError: It is no such report.

    Example:
        >>> from_json(to_json(Report("acme", "zoo-acme 1.0", 3, 0))).family
        'acme'
    """
    record: dict[str, Any] = json.loads(text)
    if record.pop("format", None) != _FORMAT:
        msg = "not a report of zoo check, or one of another version"
        raise ValueError(msg)
    verdicts = [Verdict(**each) for each in record.pop("verdicts")]
    return Report(**record, verdicts=verdicts)


def merged(reports: Iterable[Report]) -> list[Report]:
    """One report for each family, from those of its shards; of two verdicts on one thing the later one counts."""
    found: dict[str, Report] = {}
    for report in reports:
        known = found.setdefault(report.family, report)
        if known is not report:
            both = {(each.check, each.model): each for each in (*known.verdicts, *report.verdicts)}
            known.verdicts = [*both.values()]
            known.complete = known.complete and report.complete
    return [*found.values()]


def to_junit(report: Report) -> str:
    """A report as JUnit XML: a case for each model and check. Refused, expected and skipped ones count as skipped."""
    count = Counter(verdict.outcome for verdict in report.verdicts)
    suite = ET.Element(
        "testsuite",
        name=f"zoo check {report.family}",
        tests=str(len(report.verdicts)),
        failures=str(count["failed"]),
        errors="0",
        skipped=str(count["refused"] + count["expected"] + count["skipped"]),
        time=f"{sum(verdict.seconds for verdict in report.verdicts):.3f}",
    )
    for verdict in report.verdicts:
        where = f"{report.family}.{verdict.model}" if verdict.model else report.family
        case = ET.SubElement(suite, "testcase", classname=where, name=verdict.check, time=f"{verdict.seconds:.3f}")
        if verdict.outcome == "failed":
            ET.SubElement(case, "failure", message=_line(verdict.reason)).text = _printable(verdict.reason)
        elif verdict.outcome != "passed":
            ET.SubElement(case, "skipped", message=f"{verdict.outcome}: {_line(verdict.reason)}")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _line(text: str) -> str:
    return _printable(text).partition("\n")[0]


def _printable(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


def to_markdown(report: Report) -> str:
    """A report as Markdown: how often each check ended how, and every exception with its reason."""
    lines = [f"## {report.family}", "", f"{_scope(report)}", ""]
    lines += [f"| check | {' | '.join(OUTCOMES)} |", f"|---|{'--:|' * len(OUTCOMES)}"]
    for check, count in report.counts().items():
        lines.append(f"| {check} | {' | '.join(str(count[outcome] or '') for outcome in OUTCOMES)} |")
    for outcome, title in (("failed", "Failed"), ("expected", "Expected to fail"), ("refused", "Refused by zoo")):
        lines += _grouped(title, [verdict for verdict in report.verdicts if verdict.outcome == outcome])
    lines += _grouped("Not looked at", [verdict for verdict in report.verdicts if verdict.outcome == "skipped"])
    return "\n".join(lines) + "\n"


def _scope(report: Report) -> str:
    checked = len(report.checked)
    shapes = len({verdict.model for verdict in report.verdicts if verdict.shapes and verdict.model})
    words = [f"{report.origin}: {checked} of {report.models} models checked"]
    if shapes:
        more = f"more than {report.shapes_above:,} parameters"
        words.append(f"{shapes} of them, those with {more}," if report.shapes_above > 0 else f"{shapes} of them")
        words[-1] += " by their shapes alone"
    if not report.complete:
        words.append("the run was stopped before its end")
    return "; ".join(words) + "."


def _grouped(title: str, verdicts: Sequence[Verdict]) -> list[str]:
    """A bullet for each check and reason, with the models it is true of."""
    groups: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.check, _general(verdict)), []).append(verdict.model)
    if not groups:
        return []
    lines = ["", f"### {title}", ""]
    for (check, reason), models in groups.items():
        names = ", ".join(f"`{model}`" for model in models[:_SHOWN] if model)
        more = f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
        lines.append(f"- **{check}**, {names}{more}: {reason}" if names else f"- **{check}**: {reason}")
    return lines


def _general(verdict: Verdict) -> str:
    """The reason on one line, without the name of the model, so that models with one reason stand together."""
    steps = [step.strip() for step in verdict.reason.splitlines() if step.strip()]
    cause = next((step.removeprefix("likely cause: ") for step in steps if step.startswith("likely cause: ")), None)
    chosen = cause if verdict.outcome == "refused" and cause else "; ".join(steps[:3])
    head, _, rest = chosen.partition(f"/{verdict.model}")
    general = (rest.lstrip("@: ") if rest and " " not in head else chosen).replace("|", "\\|")
    return general.replace("<", "&lt;")


def page(reports: Sequence[Report]) -> str:
    """Several families on one page: what the checks are, how many models pass each, and every exception."""
    from zoo_core.testing.checks import CHECKS, DEAR_CHECKS, short_name
    from zoo_core.testing.family import FAMILY_CHECKS

    lines = ["# Models, and what was checked of them", ""]
    lines += ["Written by the conformance kit: `zoo check FAMILY --json FAMILY.json` for each family, and then"]
    lines += [
        "`python -m zoo_core.testing *.json > docs/MODELS.md`. Models are built untrained; what is checked is",
        "",
    ]
    every: tuple[Callable[..., None], ...] = (*FAMILY_CHECKS, *CHECKS, *DEAR_CHECKS)
    for check in every:
        lines.append(f"- **{short_name(check)}**: {(check.__doc__ or '').partition(chr(10))[0].replace('``', '`')}")
    lines += ["", "| family | models | checked | with values | by shapes alone | failed |", "|---|--:|--:|--:|--:|--:|"]
    for report in reports:
        shapes = {verdict.model for verdict in report.verdicts if verdict.shapes and verdict.model}
        counts = (report.models, len(report.checked), len(report.checked) - len(shapes), len(shapes))
        failed = len({verdict.model for verdict in report.failed if verdict.model})
        lines.append(f"| {report.family} | {' | '.join(map(str, counts))} | {failed} |")
    return "\n".join([*lines, "", *(to_markdown(report) for report in reports)])
