"""Which of many models to take: filters and orders over what catalogues say, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoo_core.contract.card import Card, Licenses
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from zoo_core.contract.costs import Cost

ACCURACY = "ImageNet-1K acc@1"
"""The figure that models are compared by: the only one that several libraries publish."""
_SORTS = ("name", "parameters", "accuracy", "multiply_adds")
_UNKNOWN = Licenses().weights
_THOUSAND, _MILLION, _BILLION = 1e3, 1e6, 1e9


class Entry(NamedTuple):
    """What a model is chosen by.

    Attributes:
        id: ``family/name``.
        parameters: How many, when known.
        input_size: Channels, height and width that it was designed for.
        figures: Licence and published accuracy of each of its weights.
        cost: Of one image, when its family ships it.

    Example:
        >>> Entry.of_record({"family": "acme", "name": "net", "weights": [{"tag": "V1"}]}).figures
        (('unknown', None),)
    """

    id: str
    parameters: int | None
    input_size: Sequence[int]
    figures: tuple[tuple[str, float | None], ...]
    cost: Cost | None = None

    @classmethod
    def of_card(cls, card: Card, cost: Cost | None = None) -> Entry:
        """What the model of a card is chosen by."""
        figures = tuple((each.licenses.weights, each.metrics.get(ACCURACY)) for each in card.weights)
        return cls(card.id, card.parameters, card.input_size, figures, cost)

    @classmethod
    def of_record(cls, record: Mapping[str, Any], cost: Cost | None = None) -> Entry:
        """The same of a line of a catalogue, ten times as fast as making a card of it."""
        figures = tuple(
            (each.get("licenses", {}).get("weights", _UNKNOWN), each.get("metrics", {}).get(ACCURACY))
            for each in record.get("weights", ())
        )
        name = f"{record['family']}/{record['name']}"
        return cls(name, record.get("parameters"), record.get("input_size", Card.input_size), figures, cost)

    def best(self, license: str | None = None) -> tuple[str, float | None]:  # noqa: A002 - the field's word for it
        """Licence and accuracy of the weights with the highest accuracy, of those with that licence."""
        result = [*self._with(license)]
        return max(result, key=lambda figure: -1.0 if figure[1] is None else figure[1]) if result else (_UNKNOWN, None)

    def has(self, license: str | None, least: float | None) -> bool:  # noqa: A002 - as above
        """Whether some of its weights have that licence and at least that accuracy."""
        return any(least is None or (figure is not None and figure >= least) for _, figure in self._with(license))

    def _with(self, license: str | None) -> Iterator[tuple[str, float | None]]:  # noqa: A002 - as above
        for figure in self.figures:
            if license is None or figure[0].lower() == license.lower():
                yield figure


def chosen(
    entries: Iterable[Entry],
    *,
    max_parameters: float | None = None,
    license: str | None = None,  # noqa: A002 - the field's word for it
    min_accuracy: float | None = None,
    input_size: int | None = None,
    sort: str | None = None,
) -> list[Entry]:
    """The models that fit, in their order or sorted; what is not known fits no filter, and comes last.

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
        entry
        for entry in entries
        if (max_parameters is None or (entry.parameters is not None and entry.parameters <= max_parameters))
        and (input_size is None or entry.input_size[-1] == input_size)
        and ((license is None and min_accuracy is None) or entry.has(license, min_accuracy))
    ]
    if sort is not None:
        fitting.sort(key=lambda entry: _rank(entry, sort, license))
    return fitting


def _rank(entry: Entry, sort: str, license: str | None) -> Any:  # noqa: A002, ANN401 - as above; what sort() compares
    if sort == "name":
        return entry.id.partition("/")[2]
    if sort == "accuracy":
        accuracy = entry.best(license)[1]
        return 1.0 if accuracy is None else -accuracy
    number = entry.parameters if sort == "parameters" else entry.cost and entry.cost.multiply_adds
    return float("inf") if number is None else number


def in_three_digits(number: float) -> str:
    """A number to read, without an exponent where it is not tiny.

    Example:
        >>> in_three_digits(1234.5), in_three_digits(0.01234), in_three_digits(2.0)
        ('1234', '0.0123', '2')
    """
    return f"{number:.0f}" if number >= _THOUSAND else f"{number:.3g}"


HEADER = ("model", "Mparams", "GMACs", "size", "acc@1", "licence")


def cells(entry: Entry, license: str | None = None) -> tuple[str, ...]:  # noqa: A002 - as above
    """A model in a row of a table; a question mark for what is not known.

    Example:
        >>> cells(Entry("acme/net", 5_300_000, (3, 224, 224), (("mit", 76.25),)))
        ('acme/net', '5.3', '?', '224', '76.2', 'mit')
    """
    name, accuracy = entry.best(license)
    return (
        entry.id,
        "?" if entry.parameters is None else f"{entry.parameters / _MILLION:.1f}",
        "?" if entry.cost is None else in_three_digits(entry.cost.multiply_adds / _BILLION),
        str(entry.input_size[-1]),
        "?" if accuracy is None else f"{accuracy:.1f}",
        name,
    )
