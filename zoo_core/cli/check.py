"""``zoo check``: the conformance kit from the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.options import OutFile, complete_family
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from zoo_core.cli.check_run import Choice

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
    from zoo_core.cli.check_run import Choice, Run, compare_with_traced, run_checks
    from zoo_core.testing.choosing import installed_families
    from zoo_core.testing.reports import read_earlier_run

    files = {"json": json_file, "junit": chosen.pop("junit_file"), "markdown": chosen.pop("markdown_file")}
    choice = Choice(**chosen)
    _check_usage(family, choice, every=every)
    if digests:
        _run_digests(family or "", choice, {**files, "resume": resume, "traced": traced, "all": every})
        return
    earlier = read_earlier_run(json_file) if resume else []
    runs = [Run.of(each, choice, earlier) for each in ([family] if family else installed_families())]
    run_checks(runs, choice, files, every=every)
    if traced:
        compare_with_traced(runs)
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
    from zoo_core.cli.check_digests import print_digests
    from zoo_core.testing.choosing import cards_named, known_tasks

    given = [f"--{name}" for name, value in others.items() if value and name != "json"]
    given += [option for name, option in _OF_CHECKS.items() if getattr(choice, name)]
    if given:
        raise UsageError(
            f"{given[0]} does not go with --digests, which checks no model",
            expected="a FAMILY, globs of its models, --task and --json",
        )
    cards = cards_named(family, choice.models, known_tasks(family, choice.tasks))
    if not print_digests(family, cards, others["json"]):
        sys.exit(1)
