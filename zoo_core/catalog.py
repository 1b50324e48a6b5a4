"""Cards in a file: one JSON record a line, so that a bad line costs one model and a diff shows one model."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from zoo_core.card import Card, Licenses, Preprocessing, Weights
from zoo_core.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.resources.abc import Traversable
    from pathlib import Path


def read_cards(path: Path | Traversable) -> list[Card]:
    """The cards in a file that :func:`write_cards` wrote.

    Args:
        path: A path, or a resource of a package from ``importlib.resources.files``.

    Raises:
        CatalogError: A line is not a card; the message names the file, the line and the reason.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "catalog.jsonl")
        >>> write_cards(file, [Card(family="acme", name="net", build="acme:net")])
        >>> read_cards(file)[0].id
        'acme/net'
    """
    return list(_records(path))


def _records(path: Path | Traversable) -> Iterator[Card]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield card_from_record(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CatalogError(
                    f"{path}, line {number}: not a card", cause=str(error), file=str(path), line=number
                ) from error


def write_cards(path: Path, cards: Iterable[Card]) -> None:
    """Write cards to a file, one a line; what equals its default is left out.

    Args:
        path: The file to write.
        cards: What to write, in this order.
    """
    lines = (json.dumps(card_to_record(card), ensure_ascii=False) for card in cards)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def card_to_record(card: Card) -> dict[str, Any]:
    """A card as plain data for JSON; fields that equal their defaults are left out."""
    return _without_defaults(card)


def card_from_record(record: dict[str, Any]) -> Card:
    """The card that :func:`card_to_record` turned into plain data.

    Raises:
        TypeError: A field is missing or unknown.
        ValueError: A value is impossible.
    """
    weights = tuple(_weights(item) for item in record.get("weights", ()))
    values = {**record, "weights": weights}
    if "input_size" in record:
        values["input_size"] = tuple(record["input_size"])
    return Card(**values)


def _weights(record: dict[str, Any]) -> Weights:
    values = _tuples(record)
    if "preprocessing" in record:
        values["preprocessing"] = Preprocessing(**_tuples(record["preprocessing"]))
    if "licenses" in record:
        values["licenses"] = Licenses(**record["licenses"])
    return Weights(**values)


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has only lists; our records hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def _without_defaults(item: Any) -> dict[str, Any]:  # noqa: ANN401 - any of our dataclasses
    kept: dict[str, Any] = {}
    for spec in fields(item):
        value = getattr(item, spec.name)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if value == default:
            continue
        if isinstance(item, Card) and spec.name == "weights":
            kept[spec.name] = [_without_defaults(weights) for weights in value]
        elif isinstance(value, Preprocessing | Licenses):
            kept[spec.name] = _without_defaults(value)
        else:
            kept[spec.name] = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    return kept
