"""What all checks said: as data, as JSON and JUnit XML, and as the Markdown of a support matrix."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from zoo_core.errors import UsageError
from zoo_core.testing.verdicts import OUTCOMES, Verdict
from zoo_core.utils.atomic_write import whole_file

_SHOWN = 6
"""More names than this are folded away; each is there all the same."""
_COLUMNS = ("passed", "by shapes", *OUTCOMES[1:])
_PREFACE = """\
# Models, and what was checked of them

One command writes this page: `zoo check --all --json sweep.json --markdown docs/MODELS.md`; with `--resume` it goes on
where it was stopped. Several machines share the work by `--shard 1/4 --json 1.json`, and
`python -m zoo_core.testing *.json > docs/MODELS.md` merges their files; where two have a verdict on one check of one
model, the later file counts. So a sweep by shapes (`--shapes-above 5M`) can be followed by one with values of one
model of each kind (`--sample kinds`), the smallest of each task, class and shape of heads. Models are built
untrained, and nothing is downloaded.
"""
_WORDS = """\
- **passed**: the model keeps the promise.
- **by shapes**: how many of those passed by their shapes alone. The model was built without values (on the meta
  device), since it was too large for the machine; shapes were compared, and no number was.
- **refused**: zoo says that this model cannot do that, and why.
- **expected**: it fails, and its family declares this failure, with the reason.
- **skipped**: the check does not apply to this model, or could not be made.
"""


def to_markdown(report: Report) -> str:
    """A report as Markdown: how often each check ended how, and every exception with its reason."""
    lines = [f"## {report.family}", "", f"{_scope_sentence(report)}", ""]
    lines += [f"| check | {' | '.join(_COLUMNS)} |", f"|---|{'--:|' * len(_COLUMNS)}"]
    for check, count in report.counts().items():
        by_shapes = sum(each.shapes for each in report.verdicts if (each.check, each.outcome) == (check, "passed"))
        counts = (count["passed"], by_shapes, *(count[outcome] for outcome in OUTCOMES[1:]))
        lines.append(f"| {check} | {' | '.join(str(each or '') for each in counts)} |")
    titles = {"failed": "Failed", "expected": "Expected to fail", "refused": "Refused by zoo", "skipped": "Skipped"}
    for outcome, title in titles.items():
        lines += _lines_by_reason(title, [verdict for verdict in report.verdicts if verdict.outcome == outcome])
    return "\n".join(lines) + "\n"


def page(reports: Sequence[Report]) -> str:
    """Reports on several families as one page: what was run, how many models pass, and every exception."""
    lines = [_PREFACE, _coverage(reports), "", _WORDS, "What is checked is", "", *_checks(reports), ""]
    lines += ["| family | models | checked | by shapes alone | failed |", "|---|--:|--:|--:|--:|"]
    for report in reports:
        failed = len({verdict.model for verdict in report.failed if verdict.model})
        counts = (report.models, len(report.checked), len(report.by_shapes), failed)
        lines.append(f"| {report.family} | {' | '.join(map(str, counts))} |")
    return "\n".join([*lines, "", *(to_markdown(report) for report in reports)])


def _coverage(reports: Sequence[Report]) -> str:
    """Which families the reports cover whole, and how much of the others."""
    whole = [report.family for report in reports if len(report.checked) == report.models]
    part = [
        f"{len(report.checked)} of the {report.models} models of {report.family}"
        for report in reports
        if report.family not in whole
    ]
    parts = [*([f"every model of {_listed(whole)}"] if whole else []), *part]
    return f"Checked was {_listed(parts)}." if parts else "Nothing was checked."


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence of a report on checks, with "and" before the last."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _checks(reports: Iterable[Report]) -> Iterator[str]:
    """The list on the page of reports of what each check is."""
    from zoo_core.testing.checks.family import FAMILY_CHECKS
    from zoo_core.testing.choosing import CHECKS, DEAR_CHECKS, short_name

    made = {verdict.check for report in reports for verdict in report.verdicts}
    every: tuple[Callable[..., None], ...] = (*FAMILY_CHECKS, *CHECKS, *DEAR_CHECKS)
    for check in every:
        name, summary = short_name(check), (check.__doc__ or "").partition("\n")[0].replace("``", "`")
        yield f"- **{name}**: {summary}{'' if name in made else ' Not part of this run.'}"


def _scope_sentence(report: Report) -> str:
    """Scope of one report, as a sentence: how many models, when, and how many by their shapes alone."""
    when = f", {report.made}" if report.made else ""
    words = [f"{report.origin}: {len(report.checked)} of {report.models} models checked{when}"]
    if shapes := len(report.by_shapes):
        more = f"more than {report.shapes_above:,} parameters"
        words.append(f"{shapes} of them, those with {more}," if report.shapes_above > 0 else f"{shapes} of them")
        words[-1] += " by their shapes alone"
    if not report.complete:
        words.append("the run was stopped before its end")
    return "; ".join(words) + "."


def _lines_by_reason(title: str, verdicts: Sequence[Verdict]) -> list[str]:
    """Lines of a report for one outcome: a bullet for each reason, with the checks and all models it is true of."""
    models: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        models.setdefault((verdict.check, _reason_line(verdict)), []).append(verdict.model)
    checks: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (check, reason), names in models.items():
        checks.setdefault((reason, tuple(name for name in names if name)), []).append(check)
    if not checks:
        return []
    return ["", f"### {title}", "", *(line for key, names in checks.items() for line in _bullet(names, *key))]


def _bullet(checks: Sequence[str], reason: str, models: Sequence[str]) -> Iterator[str]:
    """One bullet of a report; the names of many models are folded."""
    names = ", ".join(f"`{model}`" for model in models)
    folded = len(models) > _SHOWN
    whose = [f"{len(models)} models"] if folded else [names] if names else []
    yield f"- {', '.join([*(f'**{check}**' for check in checks), *whose])}: {reason}"
    if folded:
        yield from ("  <details><summary>their names</summary>", "", f"  {names}", "  </details>")


def _reason_line(verdict: Verdict) -> str:
    """Reason on one line of a report, without the name of the model: models with one reason are together."""
    steps = [step.strip() for step in verdict.reason.splitlines() if step.strip()]
    cause = next((step.removeprefix("likely cause: ") for step in steps if step.startswith("likely cause: ")), None)
    chosen = cause if verdict.outcome == "refused" and cause else "; ".join(steps[:3])
    head, _, rest = chosen.partition(f"/{verdict.model}")
    general = (rest.lstrip("@: ") if rest and " " not in head else chosen).replace("|", "\\|")
    return general.replace("<", "&lt;")


_FORMAT = 2


@dataclass
class Report:
    """The report on one family, to be written as JSON, JUnit XML or Markdown: its verdicts.

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
        result: dict[str, Counter[str]] = {}
        for verdict in self.verdicts:
            result.setdefault(verdict.check, Counter())[verdict.outcome] += 1
        return result


def to_json(reports: Sequence[Report]) -> str:
    """Reports as JSON, for :func:`from_json` and other programs."""
    records = [asdict(report) for report in reports]
    return json.dumps({"format": _FORMAT, "reports": records}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Report]:
    """The reports that :func:`to_json` wrote.

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


def read_earlier_run(path: Path | None) -> list[Report]:
    """Reports of an earlier run of ``zoo check``, for ``--resume`` to go on from; none where it wrote none.

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


def _report(record: dict[str, Any]) -> Report:
    """One report from its JSON."""
    record = {name: value for name, value in record.items() if name != "format"}
    verdicts = [Verdict(**each) for each in record.pop("verdicts")]
    return Report(**record, verdicts=verdicts)


def merged(reports: Iterable[Report]) -> list[Report]:
    """One report for each family, from those of its shards; of two verdicts on one thing the later one counts.

    Raises:
        ValueError: Two are of other versions of a plugin or its library, so that they are not about the same models.
    """
    result: dict[str, Report] = {}
    for report in reports:
        known = result.setdefault(report.family, replace(report, verdicts=[*report.verdicts]))
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
    return [*result.values()]


def to_junit(reports: Sequence[Report]) -> str:
    """Reports as JUnit XML: a suite a family, and a case for each model and check.

    Refused, expected and skipped ones count as skipped.
    """
    suites = ET.Element("testsuites")
    suites.extend(_suite(report) for report in reports)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def write_reports(reports: Sequence[Report], files: Mapping[str, Path | None], *, as_page: bool = False) -> None:
    """Write reports to files: as JSON, as JUnit XML, and as Markdown, of one family or as the page of them all."""
    for name, path in files.items():
        if path is None:
            continue
        if name == "markdown":
            text = page(reports) if as_page else to_markdown(reports[0])
        else:
            text = {"json": to_json, "junit": to_junit}[name](reports)
        with whole_file(path) as new:  # a run that is killed while it writes leaves the last whole file
            new.write_text(text, encoding="utf-8")


def _suite(report: Report) -> ET.Element:
    """One report as a JUnit suite."""
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
    """The first line of a reason, as JUnit XML can hold it."""
    return _printable(text).partition("\n")[0]


def _printable(text: str) -> str:
    """A reason for JUnit XML, without the characters that XML cannot hold."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
