"""``zoo config``: which settings are in force here, and who says so."""

from __future__ import annotations

import json
from typing import Any

import click

from zoo_core import settings
from zoo_core.cli.console import echo, paragraph
from zoo_core.weights.transport.urls import shown


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(*, as_json: bool) -> None:
    """Show every setting, its value, and whether the environment or which zoo.toml says so."""
    rows = [_setting_record(setting) for setting in settings.SETTINGS]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["key"]) for row in rows) + 2
    for row in rows:
        is_set = row["from"] is not None
        value, why = (_printed_value(row["value"]), row["from"]) if is_set else ("-", f"not set: {row['meaning']}")
        paragraph(f"{row['key']:{width}}{value}  ({why})", indent=width)


def _setting_record(setting: settings.Setting) -> dict[str, Any]:
    """A setting as ``zoo config`` shows it: its value without secrets, and where it comes from."""
    value, origin = settings.find(setting) or (None, None)
    if setting.kind.is_secret and value:
        value = [f"{shown(url)} = {header.partition(':')[0]}: ..." for url, header in value]
    elif isinstance(value, tuple):  # urls may hold passwords
        value = [" = ".join(map(shown, item)) if isinstance(item, tuple) else shown(item) for item in value]
    variable, meaning = setting.variable, setting.meaning
    return {"key": setting.key, "value": value, "from": origin, "variable": variable, "meaning": meaning}


def _printed_value(value: object) -> str:
    """The value of a setting as ``zoo config`` prints it for people."""
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) or "none"
