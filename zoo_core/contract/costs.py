"""What an image costs a model, as a family ships it: a file of names, multiply-adds and activations. No torch."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Cost(NamedTuple):
    """What one image of the size that a model was designed for costs it.

    Attributes:
        multiply_adds: Of convolutions, matrix products and attention.
        activations: How many values these give; training keeps about as many in memory.
    """

    multiply_adds: int
    activations: int


def write_costs(costs: Mapping[str, Cost]) -> str:
    """The text of a file that :func:`read_costs` reads: a model on each line.

    Example:
        >>> print(write_costs({"net": Cost(64, 8)}), end="")
        {
        "net": [64, 8]
        }
    """
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(list(cost))}" for name, cost in costs.items())
    return f"{{\n{lines}\n}}\n"


def read_costs(where: str) -> dict[str, Cost]:
    """The costs in ``"package:file"``, by the name of the model; empty where that is no such file.

    Example:
        >>> read_costs("zoo_tiny:costs.json")["glyphnet"].multiply_adds
        3058816
    """
    package, _, name = where.partition(":")
    try:
        result = json.loads(files(package).joinpath(name).read_text(encoding="utf-8"))
        return {model: Cost(int(each[0]), int(each[1])) for model, each in result.items()}
    except (AttributeError, IndexError, ModuleNotFoundError, OSError, TypeError, ValueError):
        return {}
