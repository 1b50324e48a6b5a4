"""``zoo.info``: what a name means, and what is different about models of that name in other families. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import cached_property

from zoo_core.contract.card import Card, Preprocessing, Weights
from zoo_core.registry.zoo import current_zoo
from zoo_core.utils.arguments import strict_arguments


class Info(Card):
    """Info on a model: the card that its name means, and the cards that other families have under the same name.

    Printed, it says in a few lines what the model is, who else has its name, and what is different there.

    Example:
        >>> import zoo_core as zoo
        >>> [other.id for other in zoo.info("inceptionv4").others]
        []
    """

    @classmethod
    def of(cls, card: Card, find: Callable[[str], Iterable[Card]]) -> Info:
        """The same card, which knows where to look for the others.

        Args:
            card: What a name means.
            find: Gives the cards of a name in all families, in the order in which they are searched.
        """
        made = cls(**{spec.name: getattr(card, spec.name) for spec in fields(card)})
        made.__dict__["_find"] = find
        return made

    @cached_property
    def others(self) -> tuple[Card, ...]:
        """The cards of this name in other families, in the order in which an unqualified name is looked for."""
        return tuple(card for card in self.namesakes if card.id != self.id)

    @cached_property
    def namesakes(self) -> tuple[Card, ...]:
        """All cards of this name; the first is what the name alone means."""
        find: Callable[[str], Iterable[Card]] | None = self.__dict__.get("_find")
        return tuple(find(self.name)) if find else (self,)

    def __getstate__(self) -> dict[str, object]:
        """Without the registry that it came from, which another process has not."""
        return {name: value for name, value in self.__dict__.items() if name != "_find"}

    def __str__(self) -> str:
        return "\n".join([f"{self.id}: {outline(self)}", *lines_on_others(self)])


def outline(card: Card) -> str:
    """What a model is, in the first line of the info on it."""
    size = "x".join(str(side) for side in card.input_size)
    parameters = f"{card.parameters:,} parameters, " if card.parameters else ""
    return f"{card.task}, {parameters}input {size}, {card.num_classes} classes, built by {card.build}"


def lines_on_others(card: Info) -> Iterator[str]:
    """What is different about models of that name in other families, a line each, and which the name alone means."""
    for other in card.others:
        yield f"also in {other.id}: {'; '.join(differences(card, other)) or 'the same by all that is known'}"
    if card.others:
        first = card.namesakes[0]
        yield f"{card.name!r} alone means {first.id}; the setting 'families' (ZOO_FAMILIES) changes that"


def differences(card: Card, other: Card) -> Iterator[str]:
    """For the info on a model, what is different about one of the same name, its default weights and preprocessing.

    Example:
        >>> net = Card(family="acme", name="net", build="acme:net", parameters=10)
        >>> list(differences(net, Card(family="other", name="net", build="other:net", parameters=12)))
        ['12 parameters instead of 10']
    """
    for name in ("task", "input_size", "parameters"):
        mine, theirs = getattr(card, name), getattr(other, name)
        if mine != theirs and mine and theirs:
            words = {"task": "for {}", "input_size": "input {}", "parameters": "{} parameters"}[name]
            yield f"{words.format(_shown(theirs))} instead of {_shown(mine)}"
    mine, theirs = _default_weights(card), _default_weights(other)
    if mine is None or theirs is None:
        if mine or theirs:
            yield "has no weights" if mine else "has weights"
        return
    names = [spec.name for spec in fields(Preprocessing)]
    both = [(name, *(getattr(each.preprocessing, name) for each in (mine, theirs))) for name in names]
    changed = [f"{name} {_shown(new)} instead of {_shown(old)}" for name, old, new in both if old != new]
    yield f"preprocessed differently: {', '.join(changed)}" if changed else "preprocessed alike"
    yield f"weights {theirs.tag}{_figure(theirs)} instead of {mine.tag}{_figure(mine)}"
    if theirs.num_classes != mine.num_classes:
        yield f"{theirs.num_classes} classes instead of {mine.num_classes}"
    if theirs.licenses.weights != mine.licenses.weights:
        yield f"licence {theirs.licenses.weights} instead of {mine.licenses.weights}"


def _default_weights(card: Card) -> Weights | None:
    """Default weights of a model, for the info on others of the same name; None without any."""
    return card.find() if card.weights and card.default else None


def _figure(weights: Weights) -> str:
    """For the info, the first published figure of weights, in brackets."""
    return next((f" ({name} {value:g})" for name, value in weights.metrics.items()), "")


def _shown(value: object) -> str:
    """For the info, a value that is different in another family's model, as text."""
    if isinstance(value, tuple):
        return "x".join(map(str, value)) if all(isinstance(each, int) for each in value) else str(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@strict_arguments
def info(name: str) -> Info:
    """The card that the registry in use has under a name, without importing torch or the model's library.

    Printed, it says too which other families have a model of that name, and how those are different: in their
    preprocessing, above all. ``info(name).others`` are their cards.

    Args:
        name: ``family/name``, or an unqualified name, which means that of the first family that has it.

    Raises:
        UnknownModel: No family has it; close matches are listed.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.info("resnet18").default
        'IMAGENET1K_V1'
    """
    zoo = current_zoo()
    return Info.of(zoo.resolve(name)[0], zoo.find)
