"""``zoo info``: what a model is, and which weights it has; without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_core.cli.console import echo, paragraph, terminal
from zoo_core.cli.options import complete_model
from zoo_core.registry.info import Info, differences, lines_on_others, outline
from zoo_core.registry.zoo import current_zoo
from zoo_core.utils.paths import is_folder, is_written_as_path

if TYPE_CHECKING:
    from zoo_core.contract.card import Card, Weights


@click.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def info(name: str, *, as_json: bool) -> None:
    """Show what the model NAME is and which weights it has; or what is in a saved folder, such as ./flowers."""
    if "://" in name or is_written_as_path(name) or is_folder(Path(name)):
        from zoo_core.recipe.save_folder import is_save, outline_of  # imports torch

        if is_save(name):
            echo(outline_of(name, as_json=as_json))
            return
    zoo = current_zoo()
    card = Info.of(zoo.resolve(name)[0], zoo.find)
    problem = zoo.member(card.family).problem
    if as_json:
        from zoo_core.contract.card_file import card_to_record

        also = {other.id: [*differences(card, other)] for other in card.others}
        echo(json.dumps({**card_to_record(card), "also": also, "problem": problem}, indent=2, ensure_ascii=False))
    else:
        _print(card, problem, zoo.member(card.family).family.figures)


def _print(card: Info, problem: str | None, source: str) -> None:
    """Print what ``zoo info`` says of a model and its weights."""
    from rich.markup import escape
    from rich.table import Table

    console = terminal()
    console.print(f"[bold]{escape(card.id)}[/]")
    paragraph(outline(card))
    if problem:
        console.print(f"[red]cannot be built here:[/] {escape(problem)}")
    for line in lines_on_others(card):
        paragraph(line)
    if not card.weights:
        console.print("no pretrained weights")
        return
    table = Table("", "tag", "classes", "digest", "size", "metrics", box=None, pad_edge=False)
    for weights in card.weights:
        table.add_row(*map(escape, _row(card, weights)))
    console.print(table)
    if source and any(weights.metrics for weights in card.weights):
        console.print(f"metrics as published in\n{source}", markup=False, overflow="ignore", crop=False)
    for in_words in (_preprocessing, _licenses, _source):
        tags: dict[str, list[str]] = {}  # each fact once, with the tags of all it is true of
        for weights in card.weights:
            tags.setdefault(in_words(weights), []).append(weights.tag)
        for words, those in tags.items():
            paragraph(f"{', '.join(those)}: {words}")


def _row(card: Card, weights: Weights) -> tuple[str, ...]:
    """The row of weights in the table of ``zoo info``."""
    return (
        "*" if weights.tag == card.default else "",
        weights.tag,
        str(weights.num_classes),
        _digest_note(weights),
        f"{weights.size / 1e6:.1f} MB" if weights.size else "?",
        ", ".join(f"{name} {value:g}" for name, value in weights.metrics.items()),
    )


def _digest_note(weights: Weights) -> str:
    """The digest of weights on a line of the command ``zoo info``, and how far it is one."""
    from zoo_core.weights.transport.hub import looks_like_hub

    if weights.sha256:
        return f"{weights.strength}, {weights.sha256[:10]}"
    return "the hub's" if looks_like_hub(weights.urls[0]) else "none"


def _preprocessing(weights: Weights) -> str:
    """How images are prepared for weights, in a line of ``zoo info``."""

    def joined(numbers: Iterable[float], by: str = " ") -> str:
        return by.join(f"{number:g}" for number in numbers)

    preprocessing, steps = weights.preprocessing, []
    if preprocessing.resize:
        smoothly = "" if preprocessing.antialias else " without antialiasing"
        fit = "" if preprocessing.fit == "squash" else f" ({preprocessing.fit})"
        steps.append(f"resize {joined(preprocessing.resize, 'x')}{fit} {preprocessing.interpolation}{smoothly}")
    if preprocessing.crop:
        steps.append(f"crop {joined(preprocessing.crop, 'x')}")
    scale = f"{preprocessing.channel_order} of 0 to {preprocessing.value_range:g}"
    return ", ".join([*steps, scale, f"mean {joined(preprocessing.mean)}", f"std {joined(preprocessing.std)}"])


def _licenses(weights: Weights) -> str:
    return "licences " + ", ".join(f"{name} ({of})" for of, name in vars(weights.licenses).items())


def _source(weights: Weights) -> str:
    return ", or ".join(file.urls[0] for file in weights.files)
