"""``zoo plugins``: who contributes what, and what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.group import conflict, plugin_commands
from zoo_core.registry import current_zoo

if TYPE_CHECKING:
    from zoo_core.plugins import Plugin
    from zoo_core.registry import Zoo


@click.command()
@click.option("--verbose", "-v", is_flag=True, help="Show the tracebacks of plugins that do not load.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, verbose: bool, as_json: bool) -> None:
    """List the plugins with their families, and the reason and remedy for each that does not work."""
    zoo = current_zoo()
    rows = [_facts(zoo, plugin) for plugin in zoo.plugins]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("no plugins; pip install zoo-torchvision, for one")
    for row in rows:
        _print(row, verbose=verbose)


def _facts(zoo: Zoo, plugin: Plugin) -> dict[str, Any]:
    problems = [plugin.problem] if plugin.problem else []
    for family in plugin.families:
        claims = zoo.claims[family.name]
        if len(claims) > 1:
            names = " and ".join(member.plugin.origin for member in claims)
            problems.append(
                f"{family.name}: claimed by {names}; uninstall one, or set ZOO_DISABLE={claims[-1].plugin.name}"
            )
        elif claims[0].problem:
            problems.append(f"{family.name}: {claims[0].problem}")
    claimed = plugin_commands()
    problems += filter(None, (conflict(command, claimed[command]) for command in plugin.commands))
    return {
        "name": plugin.name,
        "origin": plugin.origin,
        "families": [family.name for family in plugin.families],
        "commands": list(plugin.commands),
        "problems": problems,
        "notes": list(plugin.notes),
        "seconds": round(plugin.seconds, 4),
        "traceback": plugin.traceback,
    }


def _print(row: dict[str, Any], *, verbose: bool) -> None:
    what = ", ".join([*row["families"], *(f"command {name}" for name in row["commands"])]) or "nothing"
    click.echo(f"{'failed' if row['problems'] else 'ok':7}{row['name']} ({row['origin']}): {what}")
    for problem in row["problems"]:
        click.echo(f"       {problem}")
    for note in row["notes"]:
        click.echo(f"       note: {note}")
    if verbose and row["traceback"]:
        click.echo(row["traceback"])
