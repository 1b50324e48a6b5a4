"""``zoo trace``: the anatomy of a class or function, printed to paste."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

import click

from zoo_core.cli.console import echo

if TYPE_CHECKING:
    from zoo_core.contract.anatomy import Anatomy


@click.command()
@click.argument("what")
@click.option(
    "--example", "examples", multiple=True, required=True, help="Its input, such as 1x3x64x64; once for each."
)
@click.option("--head", help="Path of the main head site, where there are several.")
def trace(what: str, examples: tuple[str, ...], head: str | None) -> None:
    """Run WHAT, such as package.module:Net, and print its Anatomy to paste into a plugin.

    WHAT is a class or function that builds the model without arguments. What could not be proven is on stderr.
    """
    import torch

    from zoo_core.tracing.trace import trace as traced

    inputs = tuple(torch.zeros(_parse_sizes(each), device="cpu") for each in examples)
    try:
        model = resolve_name(what)()
    except Exception as error:
        raise click.UsageError(f"{what} builds no model: {type(error).__name__}: {error}") from error
    result = traced(model.eval(), inputs if len(inputs) > 1 else inputs[0], head=head)
    echo(as_code(result.anatomy))
    for part, why in result.missing.items():
        echo(f"{part}: {why}", err=True)
    if result.candidates:
        echo(f"head= may be {', '.join(result.candidates)}", err=True)


def _parse_sizes(text: str) -> list[int]:
    """Parse the sizes in ``zoo trace --example``, such as 1x3x64x64."""
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.UsageError(f"--example {text}: sizes such as 1x3x64x64, the batch first")
    return [int(part) for part in parts]


def as_code(anatomy: Anatomy) -> str:
    """A traced anatomy as the Python that ``zoo trace`` prints; pieces of forward that are no chain become comments.

    Example:
        >>> from zoo_core.plugin import Anatomy, Chain, Head, flatten
        >>> print(as_code(Anatomy((Head("fc", 8, 2),), ("conv",), features=Chain("conv"), pool=Chain("pool", flatten))))
        Anatomy(
            heads=(Head('fc', 8, 2),),
            stem=('conv',),
            features=Chain('conv'),
            pool=Chain('pool', flatten),
        )
    """
    heads = "".join(f"{_head_code(head)}, " for head in anatomy.heads).rstrip()
    lines = [f"heads=({heads.removesuffix(',') + ',' if heads else ''}),", f"stem={anatomy.stem!r},"]
    if anatomy.stages:
        rows = [
            f"    Stage({s.name!r}, {s.modules!r}, channels={s.channels}, stride={s.stride})," for s in anatomy.stages
        ]
        lines += ["stages=(", *rows, "),"]
    for name in ("features", "pool", "classify"):
        if (piece := getattr(anatomy, name)) is not None:
            lines.append(_piece_code(name, piece))
    lines += [f"layout={anatomy.layout!r},"] if anatomy.layout != "NCHW" else []
    lines += [f"{name}={text!r}," for name in ("headless", "indivisible", "depths") if (text := getattr(anatomy, name))]
    return "\n".join(["Anatomy(", *(f"    {line}" for line in lines), ")"])


def _head_code(head: object) -> str:
    """Python code that ``zoo trace`` prints for a head."""
    usual = {"kind": "linear", "role": "main", "attributes": (), "per_class": 1, "prior": None, "tokens": False}
    values = dict(vars(head))
    first = [repr(values.pop(name)) for name in ("path", "in_features", "num_classes")]
    more = [f"{name}={value!r}" for name, value in values.items() if value != usual[name]]
    return f"Head({', '.join([*first, *more])})"


def _piece_code(name: str, piece: object) -> str:
    """Python code that ``zoo trace`` prints for a piece of forward, a comment where it is no chain."""
    steps = getattr(piece, "steps", None)
    if steps is None or type(piece).__name__ != "Chain":
        return f"# {name}: a function (model, x) of your own; it was traced as {type(piece).__name__}"
    recorded = [step.step for step in steps if hasattr(step, "step")]
    if any(len(step.args) != 1 or step.kwargs for step in recorded):
        return f"# {name}: a function (model, x) of your own; its steps are {steps!r}"
    named = [repr(step) if isinstance(step, str) else getattr(step, "__name__", repr(step)) for step in steps]
    return f"{name}=Chain({', '.join(named)}),"
