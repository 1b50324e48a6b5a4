"""``zoo get``: the whole path once, and a short account of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.console import echo, terminal
from zoo_core.cli.options import complete_model, device_of

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--num-classes", type=int, help="Scores of the new head.")
@click.option("--in-channels", type=int, help="Channels of the images, if not those of the model.")
@click.option("--weights", default="default", show_default=True, help="A tag, the path of a file, or 'none'.")
@click.option("--freeze", multiple=True, help="What to freeze: backbone, a stage, or a pattern; may be repeated.")
@click.option("--device", help="Where the model goes, such as cuda.")
@click.option("--dtype", help="What its tensors become, such as bfloat16.")
@click.option("--seed", type=int, help="Makes the new parameters reproducible.")
@click.option("--trust", type=click.Choice(["first-use"]), help="Accept weights without a published digest.")
@click.option("--license", "licenses", multiple=True, help="An acceptable licence; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get(name: str, *, as_json: bool, weights: str, **options: Any) -> None:
    """Fetch, verify and build the model NAME, and say what became of it."""
    from zoo_core.build.get import get as build

    options["device"], options["dtype"] = device_of(options["device"]), _dtype(options["dtype"])
    options |= {key: options[key] or None for key in ("freeze", "licenses")}  # click gives empty tuples
    model = build(name, weights=None if weights.lower() == "none" else weights, **options)
    facts = _model_facts(model)
    if as_json:
        echo(json.dumps(facts, indent=2))
    else:
        _print(facts)


def _dtype(name: str | None) -> Any:
    """The dtype of torch that ``zoo get --dtype`` names; None for none."""
    import torch

    result = None if name is None else getattr(torch, name, None)
    if name is not None and not isinstance(result, torch.dtype):
        raise click.BadParameter(f"torch has no dtype {name!r}", param_hint="--dtype")
    return result


def _model_facts(model: nn.Module) -> dict[str, Any]:
    """Facts that ``zoo get`` prints of the model that it built."""
    from zoo_core.surgery.metadata import anatomy_of, receipt_of

    receipt, main = receipt_of(model), anatomy_of(model).main
    parameters = list(model.parameters())
    return {
        "model": receipt.model,
        "tag": receipt.tag,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "head": None if main is None else {"path": main.path, "in": main.in_features, "classes": main.num_classes},
        "receipt": receipt.counts,
        "initialized": receipt.names("initialized") if receipt.path else (),
        "file": receipt.path,
        "source": receipt.source,
        "sha256": receipt.sha256,
        "strength": receipt.strength,
    }


def _print(facts: dict[str, Any]) -> None:
    """Print a short account of the model that ``zoo get`` built."""
    from rich.table import Table
    from rich.text import Text

    head, counts = facts["head"], facts["receipt"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    new = f" ({', '.join(facts['initialized'])})" if facts["initialized"] else ""
    rows = {
        "model": facts["model"] + (f"@{facts['tag']}" if facts["tag"] else ""),
        "class": facts["class"],
        "parameters": f"{facts['parameters']:,}, {facts['trainable']:,} of them trainable",
        "head": f"{head['path']}: {head['in']} features to {head['classes']} classes" if head else "none",
        "receipt": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + new,
    }
    if facts["file"]:
        rows["file"] = facts["file"]
        rows["source"] = facts["source"] or "your own file"
        rows["sha256"] = f"{facts['sha256'] or 'not computed'} ({facts['strength']})"
    for name, value in rows.items():
        table.add_row(name, Text(value))
    terminal().print(table)
