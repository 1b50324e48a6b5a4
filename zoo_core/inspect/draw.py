"""``zoo.draw``: the stages of a model as a figure, or its whole graph through torchview."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from zoo_core.errors import UsageError, ZooError
from zoo_core.inspect.summary import Row, summary
from zoo_core.recipe.open_model import open_model
from zoo_core.surgery.head.multi_head import Heads
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.atomic_write import whole_file
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from torch import nn

FORMATS = (".svg", ".png", ".pdf")
_TRAINABLE, _FROZEN, _EDGE, _INK = "#f0a35e", "#a9bdd6", "#44546a", "#1d2733"
_WIDTH, _HEIGHT, _GAP = 5.2, 0.62, 0.42


@strict_arguments
def draw(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    full: bool = False,
    depth: int = 3,
) -> Path:
    """Draw ``model``: stem, stages and head, each coloured by how much of it trains, with what they give.

    Args:
        model: A model, its name, or the folder of a save.
        path: Where to: a file that ends in ``.svg``, ``.png`` or ``.pdf``.
        full: Draw the graph of all modules and operations instead, through torchview and Graphviz's ``dot``.
        depth: How deep modules are opened in that graph.

    Returns:
        The path.

    Raises:
        UsageError: The path has another suffix, or ``depth`` is no count.
        NotAZooModel: zoo knows nothing about the model.
        ZooError: A library or ``dot`` is missing, or the file cannot be written.

    Example:
        >>> import tempfile, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone")
        >>> zoo.draw(model, f"{tempfile.mkdtemp()}/net.svg").name
        'net.svg'
    """
    check_count("depth", depth)
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"nothing is drawn to {os.fspath(path)!r}", expected=f"a name that ends in {', '.join(FORMATS)}"
        )
    opened = open_model(model)
    return _draw_graph(opened, Path(path), depth) if full else _draw_stages(opened, Path(path))


def _draw_stages(model: nn.Module, path: Path) -> Path:
    """Draw the stages of a model as boxes, with matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ZooError("a drawing needs matplotlib", hint="pip install 'zoo-core[inspect]'") from error
    result = summary(model)
    boxes = [part for part in result.parts if part.stage != "head"]
    heads = _heads(model, result.parts)
    height = (len(boxes) + 2) * (_HEIGHT + _GAP) + 0.9
    figure = Figure(figsize=(max(_WIDTH, 2.4 * len(heads)) + 1.6, height))
    axes = _axes_in_inches(figure)
    middle, top = figure.get_figwidth() / 2, height - 0.35
    axes.text(middle, top, result.title.partition(":")[0], ha="center", va="center", weight="bold", color=_INK)
    legend = {"va": "center", "fontsize": 8}
    axes.text(middle - 0.15, top - 0.28, "■ trains", ha="right", color=_TRAINABLE, **legend)
    axes.text(middle + 0.15, top - 0.28, "■ frozen", ha="left", color=_FROZEN, **legend)
    top -= 0.55
    for part in boxes:
        top -= _HEIGHT
        words = f"{part.path}, {_parameter_count(part.parameters)} parameters" + (
            f", {part.held} held norms" if part.held else ""
        )
        _box(axes, middle - _WIDTH / 2, top, _WIDTH, (part.stage, words), _share(part))
        _arrow(axes, middle, top, part.shape)
        top -= _GAP
    width = min(_WIDTH, (figure.get_figwidth() - 0.4) / max(len(heads), 1) - 0.2)
    for i, (name, words, share) in enumerate(heads):
        left = middle + (i - len(heads) / 2) * (width + 0.2) + 0.1
        _box(axes, left, top - _HEIGHT, width, (name, words), share)
    what_trains = result.title.partition(": ")[2].partition(" (")[0]
    axes.text(middle, top - _HEIGHT - 0.3, what_trains, ha="center", fontsize=7, color=_INK)
    with whole_file(path) as new:
        figure.savefig(new, dpi=150)
    return path


def _axes_in_inches(figure: Any) -> Any:
    """Axes on which ``zoo.draw`` draws the stages of a model, in inches and without lines, that fill the figure."""
    axes = figure.subplots()
    axes.set_xlim(0, figure.get_figwidth())
    axes.set_ylim(0, figure.get_figheight())
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return axes


def _heads(model: nn.Module, parts: tuple[Row, ...]) -> list[tuple[str, str, float]]:
    """Name, words and trainable share of each head to draw; those of one role that share a module stand together."""
    head = next((part for part in parts if part.stage == "head"), None)
    if head is None:
        return []
    bare, result = unwrap(model), []
    for site in anatomy_of(model).heads:
        module = bare.get_submodule(site.path)
        branches = dict(module.named_children()) if isinstance(module, Heads) else {site.path: module}
        for name, branch in branches.items():
            total = sum(p.numel() for p in branch.parameters())
            share = sum(p.numel() for p in branch.parameters() if p.requires_grad) / total if total else 0.0
            classes = f"{site.num_classes} classes, " if len(branches) == 1 else ""
            role = "" if site.role == "main" else f" ({site.role})"
            result.append((f"{name}{role}", f"{classes}{_parameter_count(total)} parameters", share))
    return result or [("head", f"{_parameter_count(head.parameters)} parameters", _share(head))]


def _share(part: Row) -> float:
    return part.trainable / part.parameters if part.parameters else 0.0


def _parameter_count(number: int) -> str:
    """Number of parameters as text in a figure of ``zoo.draw``, such as 25.6 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _box(axes: Any, left: float, bottom: float, width: float, words: tuple[str, str], share: float) -> None:
    """Draw a box of which as much has the colour of what trains as does."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, bottom), width, _HEIGHT, facecolor=_FROZEN, linewidth=0))
    axes.add_patch(Rectangle((left, bottom), width * share, _HEIGHT, facecolor=_TRAINABLE, linewidth=0))
    axes.add_patch(Rectangle((left, bottom), width, _HEIGHT, fill=False, edgecolor=_EDGE, linewidth=1))
    middle = left + width / 2
    axes.text(middle, bottom + 0.4, words[0], ha="center", va="center", fontsize=9, weight="bold", color=_INK)
    axes.text(middle, bottom + 0.17, words[1], ha="center", va="center", fontsize=7, color=_INK)


def _arrow(axes: Any, x: float, top: float, words: str) -> None:
    """Draw the arrow of ``zoo.draw`` from the box of one stage to the next, with words beside it."""
    style = {"arrowstyle": "-|>", "color": _EDGE}
    axes.annotate("", (x, top - _GAP), (x, top), arrowprops=style)
    axes.text(x + 0.12, top - _GAP / 2, words, ha="left", va="center", fontsize=7, color=_INK)


def _draw_graph(model: nn.Module, path: Path, depth: int) -> Path:
    """Draw the whole graph of a model, through torchview."""
    try:
        from torchview import draw_graph
    except ImportError as error:
        raise ZooError("the whole graph needs torchview", hint="pip install 'zoo-core[inspect]'") from error
    if which("dot") is None:
        raise ZooError("the whole graph needs Graphviz's dot", hint="apt install graphviz, or leave full=True out")
    x, card = example_input(model), metadata_of(model).card
    inputs: Any = [[x[0]]] if card and card.task in ("detection", "keypoints") else x
    twin = copy.deepcopy(unwrap(model))  # torchview puts hooks on it
    with inferring(twin):
        result = draw_graph(
            twin, input_data=inputs, depth=depth, graph_name=type(twin).__name__, device=x.device, mode="eval"
        )
    data = result.visual_graph.pipe(format=path.suffix[1:].lower())
    with whole_file(path) as new:
        new.write_bytes(data)
    return path
