"""``zoo.summary``: the parts of a model, what of them trains, and where the tensors came from."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import UsageError
from zoo_core.recipe.open_model import open_model
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.surgery.select import depths
from zoo_core.surgery.structure import under
from zoo_core.text import html_page, html_table, table
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.atomic_write import whole_file

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

_HEADER = ("part", "stage", "kind", "parameters", "trainable", "held", "lr", "tensors", "channels")
_LAYER_HEADER = ("layer", "stage", "kind", "parameters", "trains", "lr", "tensors")
_WIDTH = 80
_WEB, _TEXT = (".html", ".htm"), (".txt", ".md", "")
_KIND = 16
"""How much of the class of a layer is shown in a line of 80 columns."""


@dataclass(frozen=True)
class Row:
    """One row of a summary: a module with parameters of its own, or a stage.

    Attributes:
        path: Dotted path of the module, or the name of the stage.
        stage: The stage it is in, ``"stem"``, ``"neck"`` after the stages, or ``"head"``.
        kind: Class of the module.
        parameters: How many there are.
        trainable: How many of them take gradients.
        held: Norms and other modules with statistics that ``zoo.freeze`` holds in eval mode.
        rates: Learning rates of its parameters in the optimizer, the smallest first.
        sources: What happened to its tensors on the way in, and to how many.
        shape: Channels of what a stage gives and their stride, such as ``"512 at 1/32"``.
    """

    path: str
    stage: str
    kind: str
    parameters: int
    trainable: int
    held: int
    rates: tuple[float, ...]
    sources: dict[str, int]
    shape: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows."""
        sources = ", ".join(f"{count} {what}" for what, count in self.sources.items())
        figures = (f"{self.parameters:,}", f"{self.trainable:,}", str(self.held or ""))
        return (self.path, self.stage, self.kind, *figures, self._rate, sources, self.shape)

    @property
    def _rate(self) -> str:
        return " to ".join(f"{rate:g}" for rate in dict.fromkeys([*self.rates[:1], *self.rates[-1:]]))

    @property
    def _layer_cells(self) -> tuple[str, ...]:
        """What a table of layers shows: a line of 80 columns holds most of them."""
        kind = self.kind if len(self.kind) <= _KIND else f"{self.kind[: _KIND - 3]}..."
        none = "held" if self.held else "no"
        trains = "yes" if self.trainable == self.parameters else "part" if self.trainable else none
        return (self.path, self.stage, kind, f"{self.parameters:,}", trains, self._rate, ", ".join(self.sources))


@dataclass(frozen=True, repr=False)
class Summary:
    """The parts of a model; ``print`` shows the stages as a table, ``str(summary.layers())`` every layer.

    Attributes:
        title: What the model is, and its receipt in a line.
        parts: One row a part: stem, stages, neck, head.
        rows: One row for each module with parameters of its own.
        parameters: How many there are, shared ones once.
        trainable: How many of them take gradients.
        by_layer: Whether ``parts`` has one row a layer.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.summary(zoo.get("tiny/glyphnet", num_classes=9)).parameters
        77689
    """

    title: str
    parts: tuple[Row, ...]
    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    by_layer: bool = False

    def layers(self) -> Summary:
        """The same with a row for each layer in place of each part."""
        return replace(self, parts=self.rows, by_layer=True)

    @property
    def _total(self) -> str:
        return f"{self.parameters:,} parameters, {self.trainable:,} trainable"

    @property
    def _cells(self) -> list[list[str]]:
        """The header and a line for each part, without the columns that no part has something in."""
        header = _LAYER_HEADER if self.by_layer else _HEADER
        cells = [header, *(row._layer_cells if self.by_layer else row.cells for row in self.parts)]  # noqa: SLF001 - its own table
        used = [place for place in range(len(header)) if any(line[place] for line in cells[1:])]
        if self.by_layer and len({line[-1] for line in cells[1:]}) == 1:
            used.remove(len(header) - 1)  # the title says it of all
        return [[line[place] for place in used] for line in cells]

    def __repr__(self) -> str:
        return f"Summary({self.title.partition(':')[0]}: {self._total})"

    def __str__(self) -> str:
        lines = table(self._cells, columns=_WIDTH)
        title = textwrap.wrap(self.title, _WIDTH, subsequent_indent="    ", break_long_words=False)
        return "\n".join([*title, *lines, self._total])

    def _repr_html_(self) -> str:
        header, *rows = self._cells
        return html_table(self.title, header, rows, self._total)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file: HTML for the suffix ``.html``, and plain text for ``.txt``, ``.md`` or none.

        Raises:
            UsageError: The path has another suffix.
            ZooError: It cannot be written there.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in _WEB + _TEXT:
            raise UsageError(f"a summary is not written to {path}", expected="a name that ends in .html or .txt")
        html = suffix in _WEB
        text = html_page(self.title.partition(":")[0], self._repr_html_()) if html else f"{self}\n"
        with whole_file(path) as new:
            new.write_text(text, encoding="utf-8")
        return Path(path)


@strict_arguments
def summary(model: nn.Module | str | os.PathLike[str], *, optimizer: Optimizer | None = None) -> Summary:
    """The parts of ``model``: parameters, stage, head, what trains and what is held, and where tensors came from.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt``, its name, or the folder of a save.
        optimizer: Shows the learning rate of each part.

    Returns:
        ``print`` shows a table of the parts, a notebook too; ``.rows`` has every layer; ``.save(path)`` writes it.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        UsageError: ``optimizer`` is none.

    Example:
        >>> import zoo_core as zoo
        >>> found = zoo.summary(zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone"))
        >>> [(part.stage, part.trainable > 0, part.sources) for part in found.parts][-1]
        ('head', True, {'initialized': 2})
    """
    if not hasattr(optimizer, "param_groups") and optimizer is not None:
        raise UsageError(f"optimizer cannot be {optimizer!r:.40}", expected="a torch.optim.Optimizer")
    opened = open_model(model)
    known, bare = metadata_of(opened), unwrap(opened)
    rates = {
        id(p): float(group["lr"]) for group in (optimizer.param_groups if optimizer else ()) for p in group["params"]
    }
    words = _stage_of(opened)
    rows: list[Row] = []
    for path, module in bare.named_modules():
        tensors = dict(module.named_parameters(path, recurse=False))
        if not tensors:
            continue
        names = [*tensors, *(name for name, _ in module.named_buffers(path, recurse=False))]
        rows.append(
            Row(
                path or "(the model itself)",
                words[next(iter(tensors))],
                type(module).__name__,
                sum(p.numel() for p in tensors.values()),
                sum(p.numel() for p in tensors.values() if p.requires_grad),
                int(path in known.held),
                tuple(sorted({rates[id(p)] for p in tensors.values() if id(p) in rates})),
                dict(Counter(known.receipt.tensors.get(name, "unknown") for name in names)),
            )
        )
    unique = {id(p): p for p in bare.parameters()}.values()
    trainable = sum(p.numel() for p in unique if p.requires_grad)
    shapes = {s.name: f"{s.channels} at 1/{s.stride}" for s in anatomy_of(opened).stages}
    total = sum(p.numel() for p in unique)
    return Summary(f"{type(bare).__name__}: {known.receipt}", _part_rows(rows, shapes), tuple(rows), total, trainable)


def _stage_of(model: nn.Module) -> dict[str, str]:
    """Tensor name to the name of the part that a summary counts it in."""
    anatomy = anatomy_of(model)
    names = ["stem", *(stage.name for stage in anatomy.stages), "neck", "head"]
    result = {name: names[depth] for name, depth in depths(model).items()}
    return {n: "stem" if any(under(n, path) for path in anatomy.stem) else part for n, part in result.items()}


def _part_rows(rows: list[Row], shapes: dict[str, str]) -> tuple[Row, ...]:
    """Rows of a summary for the stem, stages, neck and head, each merged from its layers."""
    by_stage: dict[str, list[Row]] = {}
    for row in rows:
        by_stage.setdefault(row.stage, []).append(row)
    order = ["stem", *shapes, "neck", "head"]
    return tuple(_stage_row(stage, by_stage[stage], shapes.get(stage, "")) for stage in order if stage in by_stage)


def _stage_row(stage: str, rows: list[Row], shape: str) -> Row:
    """One row of a summary for a stage, merged from its layers."""
    sources: Counter[str] = Counter()
    for row in rows:
        sources.update(row.sources)
    return Row(
        f"{rows[0].path} ({rows[0].kind})" if len(rows) == 1 else f"{len(rows)} layers",
        stage,
        "",
        sum(row.parameters for row in rows),
        sum(row.trainable for row in rows),
        sum(row.held for row in rows),
        tuple(sorted({rate for row in rows for rate in row.rates})),
        dict(sources),
        shape,
    )
