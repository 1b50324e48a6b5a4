"""``zoo list`` and ``zoo info``: what there is. Neither imports torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from zoo_core.cli.console import echo, terminal
from zoo_core.cli.listing import print_models
from zoo_core.registry.info import Info, differences, lines_on_others, outline
from zoo_core.registry.zoo import current_zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoo_core.contract.card import Card, Weights


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
    """Show what the model NAME is and which weights it has; or what is in a saved folder, such as ./flowers."""
    from zoo_core.recipe.record import is_save, outline_of

    if is_save(name):
        echo(outline_of(name, as_json=as_json))
        return
    zoo = current_zoo()
    card = Info.of(zoo.resolve(name)[0], zoo.find)
    problem = zoo.member(card.family).problem
    if as_json:
        from zoo_core.contract.records import card_to_record

        also = {other.id: [*differences(card, other)] for other in card.others}
        echo(json.dumps({**card_to_record(card), "also": also, "problem": problem}, indent=2, ensure_ascii=False))
    else:
        _print(card, problem)


def _print(card: Info, problem: str | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = terminal()
    console.print(f"[bold]{escape(card.id)}[/]")
    console.print(outline(card), markup=False)
    if problem:
        console.print(f"[red]cannot be built here:[/] {escape(problem)}")
    for line in lines_on_others(card):
        console.print(line, markup=False)
    if not card.weights:
        console.print("no pretrained weights")
        return
    table = Table("", "tag", "classes", "digest", "size", "metrics", box=None, pad_edge=False)
    for weights in card.weights:
        table.add_row(*map(escape, _row(card, weights)))
    console.print(table)
    for in_words in (_preprocessing, _licenses, _source):
        for tags, words in _grouped(card.weights, in_words):
            console.print(f"{tags}: {words}", markup=False)


def _row(card: Card, weights: Weights) -> tuple[str, ...]:
    return (
        "*" if weights.tag == card.default else "",
        weights.tag,
        str(weights.num_classes),
        _digest(weights),
        f"{weights.size / 1e6:.1f} MB" if weights.size else "?",
        ", ".join(f"{name} {value:g}" for name, value in weights.metrics.items()),
    )


def _digest(weights: Weights) -> str:
    from zoo_core.weights.transport.hub import looks_like_hub

    if weights.sha256:
        return f"{weights.strength}, {weights.sha256[:10]}"
    return "the hub's" if looks_like_hub(weights.urls[0]) else "none"


def _grouped(every: Iterable[Weights], in_words: Callable[[Weights], str]) -> list[tuple[str, str]]:
    """What there is to say of weights, each thing once, with the tags of all it is true of."""
    tags: dict[str, list[str]] = {}
    for weights in every:
        tags.setdefault(in_words(weights), []).append(weights.tag)
    return [(", ".join(of), words) for words, of in tags.items()]


def _preprocessing(weights: Weights) -> str:
    def joined(numbers: Iterable[float], by: str = " ") -> str:
        return by.join(f"{number:g}" for number in numbers)

    wanted, steps = weights.preprocessing, []
    if wanted.resize:
        smoothly = "" if wanted.antialias else " without antialiasing"
        fit = "" if wanted.fit == "squash" else f" ({wanted.fit})"
        steps.append(f"resize {joined(wanted.resize, 'x')}{fit} {wanted.interpolation}{smoothly}")
    if wanted.crop:
        steps.append(f"crop {joined(wanted.crop, 'x')}")
    scale = f"{wanted.channel_order} of 0 to {wanted.value_range:g}"
    return ", ".join([*steps, scale, f"mean {joined(wanted.mean)}", f"std {joined(wanted.std)}"])


def _licenses(weights: Weights) -> str:
    return "licences " + ", ".join(f"{name} ({of})" for of, name in vars(weights.licenses).items())


def _source(weights: Weights) -> str:
    return ", or ".join(file.urls[0] for file in weights.files)
