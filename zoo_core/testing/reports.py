"""What all checks said, as data, as JSON and as JUnit XML."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from zoo_core.testing.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FORMAT = 2


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
        made: The day on which they were, as in ``"2026-11-21"``, or from the first to the last of several.
    """

    family: str
    origin: str
    models: int
    shapes_above: int
    complete: bool = False
    verdicts: list[Verdict] = field(default_factory=list)
    made: str = ""

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts that make the run a failure."""
        return [verdict for verdict in self.verdicts if verdict.outcome == "failed"]

    @property
    def checked(self) -> list[str]:
        """The models that were looked at, in order."""
        return [*dict.fromkeys(verdict.model for verdict in self.verdicts if verdict.model)]

    @property
    def by_shapes(self) -> list[str]:
        """Those of them that had no values, in order."""
        return [*dict.fromkeys(verdict.model for verdict in self.verdicts if verdict.shapes and verdict.model)]

    def counts(self) -> dict[str, Counter[str]]:
        """How often each check ended how."""
        found: dict[str, Counter[str]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.check, Counter())[verdict.outcome] += 1
        return found


def to_json(reports: Sequence[Report]) -> str:
    """Reports as JSON, for :func:`from_json` and other programs.

    Args:
        reports: One a family.
    """
    records = [asdict(report) for report in reports]
    return json.dumps({"format": _FORMAT, "reports": records}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Report]:
    """The reports that :func:`to_json` wrote.

    Args:
        text: Of the file.

    Raises:
        ValueError: These are no such reports.

    Example:
        >>> [report.family for report in from_json(to_json([Report("acme", "zoo-acme 1.0", 3, 0)]))]
        ['acme']
    """
    known: Any = json.loads(text)
    if not isinstance(known, dict) or known.get("format") not in (1, _FORMAT):
        msg = "no report of zoo check, or one of another version"
        raise ValueError(msg)
    return [_report(record) for record in known.get("reports", [known])]  # 1 was the format of a single one


def _report(record: dict[str, Any]) -> Report:
    record = {name: value for name, value in record.items() if name != "format"}
    verdicts = [Verdict(**each) for each in record.pop("verdicts")]
    return Report(**record, verdicts=verdicts)


def merged(reports: Iterable[Report]) -> list[Report]:
    """One report for each family, from those of its shards; of two verdicts on one thing the later one counts.

    Args:
        reports: Of any families, in the order in which they were made.

    Raises:
        ValueError: Two are of other versions of a plugin or its library, so that they are not about the same models.
    """
    found: dict[str, Report] = {}
    for report in reports:
        known = found.setdefault(report.family, replace(report, verdicts=[*report.verdicts]))
        if (known.origin, known.models) != (report.origin, report.models):
            of = f"{known.origin} with {known.models} models and {report.origin} with {report.models}"
            msg = f"the reports on {report.family} are not of the same thing: {of}"
            raise ValueError(msg)
        both = {(each.check, each.model): each for each in (*known.verdicts, *report.verdicts)}
        known.verdicts = [*both.values()]
        known.complete = known.complete and report.complete
        days = sorted({day for each in (known, report) for day in each.made.split(" to ") if day})
        known.made = " to ".join(dict.fromkeys((*days[:1], *days[-1:])))
        known.shapes_above = known.shapes_above if known.shapes_above == report.shapes_above else 0
    return [*found.values()]


def to_junit(reports: Sequence[Report]) -> str:
    """Reports as JUnit XML: a suite a family, and a case for each model and check.

    Refused, expected and skipped ones count as skipped.

    Args:
        reports: One a family.
    """
    suites = ET.Element("testsuites")
    suites.extend(_suite(report) for report in reports)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(report: Report) -> ET.Element:
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
    return suite


def _line(text: str) -> str:
    return _printable(text).partition("\n")[0]


def _printable(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
