"""``zoo plugins``: which plugin contributes what, and what is wrong with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import echo, paragraph
from zoo_core.cli.group import conflict, plugin_commands
from zoo_core.errors import ZooError
from zoo_core.registry.lookup_errors import INSTALL_A_FAMILY
from zoo_core.registry.plugins import SLOW, Plugin, go_without
from zoo_core.registry.zoo import Zoo, current_zoo

if TYPE_CHECKING:
    from zoo_core.contract.family import Family
    from zoo_core.registry.families import Member


@click.command()
@click.option("--verbose", "-v", is_flag=True, help="Show the tracebacks of plugins that do not load.")
@click.option("--try", "try_it", is_flag=True, help="Also build a small model of each family, and find its parts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, verbose: bool, try_it: bool, as_json: bool) -> None:
    """List the plugins with their families, and the reason and remedy for each that does not work.

    Every catalogue is opened, and no library is imported: what goes wrong with a model shows with --try. Exit code 0
    even where a plugin fails: the others work.
    """
    zoo = current_zoo()
    rows = [facts_of(zoo, plugin, try_it=try_it) for plugin in zoo.plugins]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    if not rows:
        echo(f"no plugins; {INSTALL_A_FAMILY}")
    for row in rows:
        _print(row, verbose=verbose)
    if rows and not try_it:
        echo("no model was built; zoo plugins --try builds a small one of each family")


def facts_of(zoo: Zoo, plugin: Plugin, *, try_it: bool = False) -> dict[str, Any]:
    """What ``zoo plugins`` says of one plugin: what it contributes, what is wrong with it, and what is odd."""
    problems = [plugin.problem] if plugin.problem else []
    notes = [*plugin.notes]
    for family in plugin.families:
        wrong, odd = _family_problems(zoo, family, try_it=try_it)
        problems += [f"{family.name}: {problem}" for problem in wrong]
        notes += [f"{family.name}: {note}" for note in odd]
    claimed = plugin_commands()
    problems += [
        f"{problem}; uninstall one, or set ZOO_DISABLE={plugin.name}"
        for command in plugin.commands
        if (problem := conflict(command, claimed[command]))
    ]
    if not (plugin.problem or plugin.families or plugin.commands or plugin.has_engine):
        notes.append("it contributes nothing: none of its functions is marked @hookimpl, or they return nothing")
    return {
        "name": plugin.name,
        "origin": plugin.origin,
        "families": [family.name for family in plugin.families],
        "commands": list(plugin.commands),
        "engines": [plugin.name] if plugin.has_engine else [],
        "problems": problems,
        "notes": notes,
        "seconds": round(plugin.seconds, 4),
        "traceback": plugin.traceback,
    }


def _family_problems(zoo: Zoo, family: Family, *, try_it: bool) -> tuple[list[str], list[str]]:
    """Problems of a plugin's family, and what is odd about it, as ``zoo plugins`` lists them."""
    claims = zoo.claims[family.name]
    if len(claims) > 1:
        names = " and ".join(member.plugin.origin for member in claims)
        disabled = " or ".join(f"ZOO_DISABLE={claim.plugin.name}" for claim in claims)
        return [f"claimed by {names}; uninstall one, or set {disabled}"], []
    member = claims[0]
    problems = [member.problem] if member.problem else []
    started = time.perf_counter()
    try:
        count = len(member.cards)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's own code: whatever it raises is its failure
        return [*problems, _problem_line(error, member)], [*_version_notes(family)]
    notes = [*_version_notes(family)]
    if (seconds := time.perf_counter() - started) > SLOW:
        notes.append(f"slow: it took {seconds:.1f} s to list; read_cards reads a file of cards without parsing it")
    if not count:
        notes.append(f"its catalogue {family.catalog} is empty")
    elif try_it and not problems:
        problems += _try_smallest(member)
    return problems, notes


def _version_notes(family: Family) -> Iterator[str]:
    """What ``zoo plugins`` says of a library of another version than the plugin was tested with."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if not (family.tested and family.requires):
        return
    try:
        installed = version(family.requires)
        tested = SpecifierSet(family.tested, prereleases=True)
    except PackageNotFoundError:
        return
    except InvalidSpecifier:
        yield f"tested={family.tested!r} names no versions; such as '>=1.0.20,<1.1'"
        return
    if installed not in tested:
        yield (
            f"{family.requires} {installed} is not among the versions that this plugin was tested with, "
            f"{family.tested}; zoo check {family.name} says whether all still fits"
        )


def _try_smallest(member: Member) -> list[str]:
    """For ``zoo plugins``, build the smallest model of a family and read its anatomy; give what goes wrong."""
    from zoo_core.build.get import get

    card = min(member.cards.values(), key=lambda card: card.parameters or 0)
    try:
        get(card.id, weights=None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
        return [_problem_line(error, member)]
    return []


def _problem_line(error: BaseException, member: Member) -> str:
    """A problem of a plugin, its cause and the remedy on one line of ``zoo plugins``."""
    lines = [line.strip() for line in str(error).splitlines()]
    if not any(line.startswith("next step: ") for line in lines):
        lines.append(go_without(member.plugin))
    text = "; ".join(line.removeprefix("next step: ") for line in lines)
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}"


def _print(row: dict[str, Any], *, verbose: bool) -> None:
    """Print a plugin with its families and commands, and with its problems and notes."""
    others = [f"{kind} {name}" for kind in ("command", "engine") for name in row[f"{kind}s"]]
    what = ", ".join([*row["families"], *others]) or "nothing"
    paragraph(f"{'failed' if row['problems'] else 'ok':7}{row['name']} ({row['origin']}): {what}", indent=7)
    for problem in row["problems"]:
        paragraph(f"       {problem}", indent=7)
    for note in row["notes"]:
        paragraph(f"       note: {note}", indent=7)
    if verbose and row["traceback"]:
        echo(row["traceback"])
