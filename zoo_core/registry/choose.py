"""Which of many models to take: filters and orders over cards, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoo_core.contract.card import Card, Weights

ACCURACY = "ImageNet-1K acc@1"
"""The figure that models are compared by: the only one that several libraries publish."""
_SORTS = ("name", "parameters", "accuracy")


def chosen(
    cards: Iterable[Card],
    *,
    max_parameters: float | None = None,
    license: str | None = None,  # noqa: A002 - the field's word for it
    min_accuracy: float | None = None,
    input_size: int | None = None,
    sort: str | None = None,
) -> list[Card]:
    """The cards that fit, in their order or sorted; what is not known fits no filter, and comes last.

    A licence and an accuracy count together: one of the weights has to have both.

    Raises:
        UsageError: An argument is impossible.
    """
    for name, value in {
        "max_parameters": max_parameters,
        "min_accuracy": min_accuracy,
        "input_size": input_size,
    }.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{name} cannot be {value!r}", expected="a number", argument=name)
    if license is not None and not isinstance(license, str):
        raise UsageError(f"license cannot be {license!r}", expected="such as 'apache-2.0'", argument="license")
    if sort is not None and sort not in _SORTS:
        raise UsageError(f"sort cannot be {sort!r}", expected=f"one of {', '.join(_SORTS)}", argument="sort")
    fitting = [
        card
        for card in cards
        if (max_parameters is None or (card.parameters is not None and card.parameters <= max_parameters))
        and (input_size is None or card.input_size[-1] == input_size)
        and ((license is None and min_accuracy is None) or any(_fitting(card, license, min_accuracy)))
    ]
    if sort == "name":
        fitting.sort(key=lambda card: card.name)
    elif sort == "parameters":
        fitting.sort(key=lambda card: float("inf") if card.parameters is None else card.parameters)
    elif sort == "accuracy":
        fitting.sort(key=lambda card: -max((a for _, a in _figures(card, license) if a is not None), default=-1.0))
    return fitting


def _fitting(card: Card, name: str | None, least: float | None) -> Iterator[bool]:
    for _, accuracy in _figures(card, name):
        yield least is None or (accuracy is not None and accuracy >= least)


def _figures(card: Card, name: str | None) -> Iterator[tuple[Weights, float | None]]:
    """The weights of that licence with their accuracy."""
    for weights in card.weights:
        if name is None or weights.licenses.weights.lower() == name.lower():
            yield weights, weights.metrics.get(ACCURACY)
