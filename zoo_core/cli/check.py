"""``zoo check``: the conformance kit from the command line, and with ``--digests`` the digests that cards lack."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from zoo_core import settings
from zoo_core.cli.console import echo
from zoo_core.cli.options import OutFile, complete_family
from zoo_core.errors import CacheError, Unreadable, UsageError, ZooError
from zoo_core.utils.atomic_write import whole_file
from zoo_core.weights.formats.sniff import NEXT_STEPS, describe
from zoo_core.weights.transport.urls import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from zoo_core.cli.check_run import Choice
    from zoo_core.contract.card import Card, Weights
    from zoo_core.weights.request import Artefact

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
_HEAD = 512
_NO_WEIGHTS = (
    "an HTML page",
    "an XML document",
    "a JSON document",
    "a git-lfs pointer, not the file it points to",
    "an empty file",
    "a file of zero bytes",
)
"""What servers answer in place of a file; its digest in a card would be held for ever."""
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


@dataclass(frozen=True)
class Missing:
    """A file of weights whose whole digest its card lacks, for ``zoo check --digests`` to print.

    Attributes:
        card: Of its model.
        weights: The entry for this file alone. Where an entry has several files its tag ends in the file's name, since
            what the cache knows of a tag is the digest of one file.
        key: Of ``Weights.digests`` where its digest belongs; ``""`` where that is ``Weights.sha256``.
    """

    card: Card
    weights: Weights
    key: str

    @property
    def name(self) -> str:
        """Name of the file in the messages of ``zoo check --digests``."""
        return f"{self.card.id}@{self.weights.tag}"


def missing(cards: Iterable[Card]) -> Iterator[Missing]:
    """The files whose whole digests cards lack, for ``zoo check --digests``, in the order of the cards."""
    for card in cards:
        for weights in card.weights:
            for number, file in enumerate(weights.files):
                if file.strength != "proven":
                    tag = f"{weights.tag}-{file.file_name}" if weights.digests else weights.tag
                    yield Missing(card, replace(file, tag=tag), file.file_name if number else "")


def print_digests(family: str, cards: Iterable[Card], json_file: Path | None) -> bool:
    """For ``zoo check --digests``, fetch each file, trusting what comes first, and print its size and digest.

    Args:
        family: Its name.
        cards: Those that are looked at.
        json_file: Where to write the same as JSON.

    Returns:
        Whether every file could be had.
    """
    from zoo_core.weights import obtain

    results: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    try:
        for each in missing(cards):
            try:
                artefact = obtain(each.card, each.weights, trust="first-use", obey_lock=False)
                _require_source(each, artefact)
                _require_weights(each, artefact)
            except (ZooError, OSError, ValueError) as error:  # ValueError: a url that is none
                failures.append({**_facts(each), "error": str(error)})
                echo(f"failed {each.name} {shown(each.weights.urls[0])}\n  {error}", err=True)
            else:
                results.append({**_facts(each), "size": artefact.size, "sha256": artefact.sha256})
                _print_digest(each, artefact)
    finally:
        if json_file:
            text = json.dumps({"family": family, "weights": results, "failed": failures}, indent=2)
            with whole_file(json_file) as new:
                new.write_text(f"{text}\n", encoding="utf-8")
    if not results and not failures:
        echo(f"{family}: no weights without a whole SHA-256")
    return not failures


def _facts(each: Missing) -> dict[str, Any]:
    return {"name": each.name, "url": shown(each.weights.urls[0])}


def _require_source(each: Missing, artefact: Artefact) -> None:
    """For ``zoo check --digests``, refuse the digest of what the cache has from another url: it may be another file."""
    urls = [*map(shown, each.weights.urls)]
    moved = settings.mirrors() or settings.rewrites() or artefact.source.startswith("file:")
    if artefact.fetched or each.weights.sha256 or artefact.source in urls or (moved and "file:" not in urls[0]):
        return
    raise CacheError(
        f"the cache has {each.name} from another url than its card has",
        expected=f"from {', '.join(urls)}",
        got=f"from {artefact.source or 'an unknown place'}",
        done="no digest was printed",
        hint=f"`zoo cache rm '{each.name}'` lets go of it, and the next run fetches the file of the card",
    )


def _require_weights(each: Missing, artefact: Artefact) -> None:
    """For ``zoo check --digests``, refuse the digest of a page or another thing that holds no weights."""
    with artefact.path.open("rb") as file:
        kind = describe(file.read(_HEAD))
    if kind in _NO_WEIGHTS and not each.weights.file_name.endswith(".json"):
        raise Unreadable(
            f"{each.name} is {kind}",
            expected="a file of weights",
            got=f"{artefact.size:,} bytes from {artefact.source}",
            done="no digest was printed",
            hint=f"{NEXT_STEPS[kind]}; `zoo cache rm '{each.name}'` first, so that this one is not taken again",
            path=artefact.path,
        )


def _print_digest(each: Missing, artefact: Artefact) -> None:
    """For ``zoo check --digests``, print the digest that a card lacks and the size, to be copied into it."""
    echo(f"# {each.name}  {shown(each.weights.urls[0])}")
    if each.key:
        echo(f'digests={{"{each.key}": "{artefact.sha256}"}},  # {artefact.size:,} bytes')
    else:
        echo(f'size={artefact.size},\nsha256="{artefact.sha256}",')
