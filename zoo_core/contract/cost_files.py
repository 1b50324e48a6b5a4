"""What an image costs a model, and what parts it has, as a family ships them in files. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """What one image of the size that a model was designed for costs it, as its family ships it in a file.

    Attributes:
        multiply_adds: Of convolutions, matrix products and attention.
        activations: How many values these give; training keeps about as many in memory.
    """

    multiply_adds: int
    activations: int


def write_costs(costs: Mapping[str, Cost]) -> str:
    """The text of the file of costs that a family ships, for :func:`read_costs`: a model on each line.

    Example:
        >>> print(write_costs({"net": Cost(64, 8)}), end="")
        {
        "net": [64, 8]
        }
    """
    return _file_text(costs)


def read_costs(where: str) -> dict[str, Cost]:
    """The costs that a family ships in ``"package:file"``, by the name of the model; empty without such a file.

    Example:
        >>> read_costs("zoo_tiny:costs.json")["glyphnet"].multiply_adds
        3058816
    """
    try:
        return {model: Cost(int(each[0]), int(each[1])) for model, each in _read(where).items()}
    except (AttributeError, IndexError, TypeError, ValueError):
        return {}


def _file_text(records: Mapping[str, tuple[object, ...]]) -> str:
    """The text of a file of costs, or of parts, that a family ships: a model on each line."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(list(record))}" for name, record in records.items())
    return f"{{\n{lines}\n}}\n"


def _read(where: str) -> dict[str, Any]:
    """What a file of costs, or of parts, that a family ships holds; empty where there is no such file."""
    package, _, name = where.partition(":")
    try:
        result: dict[str, Any] = json.loads(files(package).joinpath(name).read_text(encoding="utf-8"))
    except (ModuleNotFoundError, OSError, ValueError):
        return {}
    return result


class Parts(NamedTuple):
    """The heads and stages of a model, as its family ships them in a file beside that of costs.

    Attributes:
        heads: Path and features of each head site.
        stages: First and last name, channels and stride of stages that follow one another and are alike.

    Example:
        >>> print(Parts((("head", 192),), (("block1", "block12", 192, 16),)))
        head of 192 features; block1 to block12: 192 channels at 1/16
    """

    heads: tuple[tuple[str, int], ...]
    stages: tuple[tuple[str, str, int, int], ...]

    @property
    def words(self) -> tuple[str, str]:
        """The heads in words, and the stages."""
        heads = ", ".join(f"{path} of {features} features" for path, features in self.heads)
        stages = ", ".join(
            f"{first if first == last else f'{first} to {last}'}: {channels} channels at 1/{stride}"
            for first, last, channels, stride in self.stages
        )
        return heads, stages

    def __str__(self) -> str:
        return "; ".join(filter(None, self.words))


def write_parts(parts: Mapping[str, Parts]) -> str:
    """The text of the file of parts that a family ships beside its costs, for :func:`read_parts`.

    Example:
        >>> print(write_parts({"net": Parts((("fc", 8),), ())}), end="")
        {
        "net": [[["fc", 8]], []]
        }
    """
    return _file_text(parts)


def read_parts(where: str) -> dict[str, Parts]:
    """The parts that a family ships beside its costs in ``"package:file"``, by model; empty without such a file.

    Example:
        >>> read_parts("zoo_tiny:parts.json")["glyphnet"].heads
        (('fc', 64),)
    """
    try:
        return {
            model: Parts(
                tuple((str(path), int(features)) for path, features in heads),
                tuple((str(first), str(last), int(channels), int(stride)) for first, last, channels, stride in stages),
            )
            for model, (heads, stages) in _read(where).items()
        }
    except (AttributeError, TypeError, ValueError):
        return {}
