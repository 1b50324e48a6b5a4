"""Which of many models to take: filters and orders over what catalogues say, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo_core.contract.card import Card, Licenses, Preprocessing
from zoo_core.errors import UsageError
from zoo_core.text import in_three_digits

if TYPE_CHECKING:
    from zoo_core.contract.cost_files import Cost

ACCURACY = "ImageNet-1K acc@1"
"""The figure that models are compared by: the only one that several libraries publish."""
_SORTS = ("name", "parameters", "accuracy", "multiply_adds")
_UNKNOWN = Licenses().weights
_MILLION, _BILLION = 1e6, 1e9


class Figure(NamedTuple):
    """What one of the weights of a model is chosen by.

    Attributes:
        tag: Of the weights.
        license: Of the weights.
        accuracy: Published, in percent; None where there is none.
        size: Width of the images that they see, where that is another than the model was designed for.
    """

    tag: str
    license: str
    accuracy: float | None
    size: int | None = None


_NONE = Figure("", _UNKNOWN, None)


class Entry(NamedTuple):
    """What a model is chosen by.

    Attributes:
        id: ``family/name``.
        parameters: How many, when known.
        input_size: Channels, height and width that it was designed for.
        figures: What each of its weights is chosen by.
        default: Tag of its default weights; None where there are none.
        cost: Of one image, when its family ships it.

    Example:
        >>> Entry.of_record({"family": "acme", "name": "net", "weights": [{"tag": "V1"}]}).figures
        (Figure(tag='V1', license='unknown', accuracy=None, size=None),)
    """

    id: str
    parameters: int | None
    input_size: Sequence[int]
    figures: tuple[Figure, ...]
    default: str | None = None
    cost: Cost | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, Any], cost: Cost | None = None) -> Entry:
        """What the model of a line of a catalogue is chosen by, ten times as fast as by making a card of it."""
        name, size = f"{record['family']}/{record['name']}", record.get("input_size", Card.input_size)
        figures = tuple(
            Figure(
                each["tag"],
                each.get("licenses", {}).get("weights", _UNKNOWN),
                each.get("metrics", {}).get(ACCURACY),
                _other_width(each.get("preprocessing", {}).get("crop", Preprocessing.crop), size[-1]),
            )
            for each in record.get("weights", ())
        )
        return cls(name, record.get("parameters"), size, figures, record.get("default"), cost)

    def best(self, license: str | None = None) -> Figure:  # noqa: A002 - the field's word for it
        """The weights with the highest accuracy, of those with that licence."""
        return max(self._with(license), key=lambda figure: figure.accuracy or -1.0, default=_NONE)

    @property
    def usual(self) -> Figure:
        """The default weights."""
        return next((figure for figure in self.figures if figure.tag == self.default), _NONE)

    def has(self, license: str | None, least: float | None) -> bool:  # noqa: A002 - as above
        """Whether some of its weights have that licence and at least that accuracy."""
        return any(
            least is None or (figure.accuracy is not None and figure.accuracy >= least)
            for figure in self._with(license)
        )

    def _with(self, license: str | None) -> Iterator[Figure]:  # noqa: A002 - as above
        for figure in self.figures:
            if license is None or figure.license.lower() == license.lower():
                yield figure


def _other_width(crop: Sequence[int] | None, width: int) -> int | None:
    """Width of the images of weights to choose from, where it is not the one that the model was designed for."""
    return crop[-1] if crop and crop[-1] != width else None


def chosen(
    entries: Iterable[Entry],
    *,
    max_parameters: float | None = None,
    license: str | None = None,  # noqa: A002 - the field's word for it
    min_accuracy: float | None = None,
    input_size: int | None = None,
    sort: str | None = None,
) -> list[Entry]:
    """Choose the models that fit, in their order or sorted; what is not known fits no filter, and comes last.

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
        fitting.sort(key=lambda entry: _sort_key(entry, sort, license))
    return fitting


def _sort_key(entry: Entry, sort: str, license: str | None) -> Any:  # noqa: A002 - as above; what sort() compares
    """The key by which chosen models are sorted; what is not known comes last."""
    if sort == "name":
        return entry.id.partition("/")[2]
    if sort == "accuracy":
        accuracy = entry.best(license).accuracy
        return 1.0 if accuracy is None else -accuracy
    number = entry.parameters if sort == "parameters" else entry.cost and entry.cost.multiply_adds
    return float("inf") if number is None else number


HEADER = ("model", "Mparams", "GMACs", "size", "acc@1", "licence")


def cells(entry: Entry, figure: Figure | None = None) -> tuple[str, ...]:
    """A model to choose, in a row of a table; a question mark for what is not known.

    Args:
        entry: The model.
        figure: Which of its weights; the default ones unless given, and the name says so where it is others.

    Example:
        >>> net = Entry("acme/net", 5_300_000, (3, 224, 224), (Figure("V2", "mit", 76.25),), default="V1")
        >>> cells(net, net.best())
        ('acme/net@V2', '5.3', '?', '224', '76.2', 'mit')
    """
    shown = entry.usual if figure is None else figure
    return (
        f"{entry.id}@{shown.tag}" if shown.tag and shown.tag != entry.default else entry.id,
        "?" if entry.parameters is None else f"{entry.parameters / _MILLION:.1f}",
        # what was counted is of images of the size that the model was designed for
        "?" if entry.cost is None or shown.size else in_three_digits(entry.cost.multiply_adds / _BILLION),
        str(shown.size or entry.input_size[-1]),
        "?" if shown.accuracy is None else f"{shown.accuracy:.1f}",
        shown.license,
    )
