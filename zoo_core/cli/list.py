"""``zoo list``: which models there are, by name or in a table."""

from __future__ import annotations

from typing import Any

import click

from zoo_core.cli.list_without_click import number, print_models


class _Number(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers alone
    """An option of ``zoo list``, for click, that is a number, with a unit such as M or without."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read it, or fail with what it should be."""
        try:
            return value if isinstance(value, float) else number(value)
        except ValueError:
            self.fail(f"{value!r} is no number", param, ctx)


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--family", help="Only this family.")
@click.option("--task", help="Only this task, such as classification.")
@click.option("--max-parameters", type=_Number(), metavar="N", help="Only models with at most so many, such as 10M.")
@click.option("--license", help="Only models with weights of this licence, such as apache-2.0.")
@click.option("--min-accuracy", type=_Number(), metavar="PERCENT", help="Only models of this published acc@1.")
@click.option("--input-size", type=_Number(), metavar="PIXELS", help="Only models designed for images of this width.")
@click.option("--sort", help="By name, parameters, multiply_adds or accuracy.")
@click.option("--table", "as_table", is_flag=True, help="Print what each costs and gives, and not names alone.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(pattern: str, family: str | None, task: str | None, **options: Any) -> None:
    r"""List the models whose names match PATTERN, such as '*resnet*' or 'torchvision/*'.

    \b
    zoo list 'torchvision/*net*'
    zoo list --table --max-parameters 10M --license apache-2.0 --sort accuracy
    """
    print_models(pattern, family=family, task=task, **options)
