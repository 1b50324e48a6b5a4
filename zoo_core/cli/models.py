"""``zoo list`` and ``zoo info``: what there is. Neither imports torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from zoo_core.cli.listing import print_models
from zoo_core.registry import current_zoo

if TYPE_CHECKING:
    from zoo_core.card import Card, Weights


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--family", help="Only this family.")
@click.option("--task", help="Only this task, such as classification.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(pattern: str, family: str | None, task: str | None, *, as_json: bool) -> None:
    """List the models whose names match PATTERN, such as '*resnet*' or 'torchvision/*'."""
    print_models(pattern, family=family, task=task, as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def info(name: str, *, as_json: bool) -> None:
    """Show what the model NAME is and which weights it has."""
    zoo = current_zoo()
    card, _ = zoo.resolve(name)
    others = [other for other in zoo.find(card.name) if other.id != card.id]
    problem = zoo.member(card.family).problem
    if as_json:
        from zoo_core.catalog import card_to_record

        also = [other.id for other in others]
        click.echo(json.dumps({**card_to_record(card), "also": also, "problem": problem}, indent=2, ensure_ascii=False))
    else:
        _print(card, others, problem)


def _print(card: Card, others: list[Card], problem: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{card.id}[/]")
    size = "x".join(str(side) for side in card.input_size)
    parameters = f"{card.parameters:,} parameters, " if card.parameters else ""
    console.print(f"{card.task}, {parameters}input {size}, {card.num_classes} classes, built by {card.build}")
    if problem:
        console.print(f"[red]cannot be built here:[/] {problem}")
    for other in others:
        console.print(f"also in {other.id}{_difference(card, other)}")
    if not card.weights:
        console.print("no pretrained weights")
        return
    table = Table("", "tag", "classes", "digest", "size", "licence", "metrics", box=None, pad_edge=False)
    for weights in card.weights:
        table.add_row(*_row(card, weights))
    console.print(table)
    for weights in card.weights:
        console.print(f"{weights.tag}: {weights.urls[0]}", soft_wrap=True)


def _row(card: Card, weights: Weights) -> tuple[str, ...]:
    return (
        "*" if weights.tag == card.default else "",
        weights.tag,
        str(weights.num_classes),
        f"{weights.strength}, {weights.sha256[:10]}" if weights.sha256 else "none",
        f"{weights.size / 1e6:.1f} MB" if weights.size else "?",
        weights.licenses.weights,
        ", ".join(f"{name} {value:g}" for name, value in weights.metrics.items()),
    )


def _difference(card: Card, other: Card) -> str:
    if not (card.weights and other.weights and card.default and other.default):
        return ""
    mine, theirs = card.find().preprocessing, other.find().preprocessing
    differing = [name for name in vars(mine) if getattr(mine, name) != getattr(theirs, name)]
    shown = ", ".join(f"{name} {getattr(theirs, name)} instead of {getattr(mine, name)}" for name in differing)
    return f", preprocessed differently: {shown}" if shown else ", preprocessed alike"
