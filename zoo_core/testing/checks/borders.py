"""The check of the borders of stages: each ends where its resolution does, and at the end of a block."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.structure import under
from zoo_core.testing.findings import NotChecked, require
from zoo_core.testing.under_test import arguments, example, model_under_test, tensors
from zoo_core.utils.duplicate import without_values
from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoo_core.contract.anatomy import Anatomy, Stage
    from zoo_core.contract.card import Card

_ALIKE = "which gives a map of as many channels and the same stride"
_PLACES = (slice(-2, None), slice(1, -1))
"""Where rows and columns are in the shape of a map, with the channels first or last."""


class ModuleRun(NamedTuple):
    """What a module of a model gave when it ran last, to see whether the border of a stage is there.

    Attributes:
        shape: Of the first tensor.
        nodes: Of autograd, that computed its tensors.
        first: When it ended for the first time, counted in modules.
        last: When it ended for the last time.
    """

    shape: torch.Size
    nodes: frozenset[Any]
    first: int
    last: int


@contextmanager
def noted_runs(model: nn.Module) -> Iterator[dict[str, ModuleRun]]:
    """Inside the block, note what each module of a model gives, by path, in the order in which they end.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with noted_runs(model) as runs:
        ...     _ = model(torch.zeros(1, 2))
        >>> {path: [*run.shape] for path, run in runs.items()}
        {'0': [1, 3], '1': [1, 3]}
    """
    runs: dict[str, ModuleRun] = {}
    clock = count()

    def note(path: str, made: object) -> None:
        now, before = next(clock), runs.pop(path, None)
        given = [*tensors(made)]
        if given:
            nodes = frozenset(each.grad_fn for each in given if each.grad_fn is not None)
            runs[path] = ModuleRun(given[0].shape, nodes, before.first if before else now, now)

    hooks = [
        module.register_forward_hook(lambda _, __, made, path=path: note(path, made))
        for path, module in model.named_modules()
        if path
    ]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def check_borders(card: Card) -> None:
    """Each stage ends where its resolution does, at the end of a block, and no block between two is in none.

    The model runs without values, as far as it comes so: a model whose stages need them is not looked at.

    Raises:
        NonConformance: A stage ends before that, after it, or inside a block.
        NotChecked: Not all stages run without values.
    """
    model = without_values(model_under_test(card))
    anatomy, x = anatomy_of(model), example(card, batch=1).to("meta")
    with noted_runs(model) as runs, torch.enable_grad(), MetaShapes(), suppress(Exception):
        model(*arguments(card, x))
    if not anatomy.stages or not all(stage.output in runs for stage in anatomy.stages):
        raise NotChecked(f"{card.id} has no stages that run without values")
    for stage in anatomy.stages:
        end = runs[stage.output].last
        late = [path for path in stage.modules if path in runs and runs[path].first > end]
        require(
            not late,
            f"{card.id}: stage {stage.name}: {late[:1]} runs after {stage.output!r}, which is named last: name the "
            "modules in the order in which they run",
        )
    run = ModelRun(card, model, anatomy, runs)
    for stage, later in pairwise(anatomy.stages):
        _check_end_of_block(run, stage, later)
        if stage.stride < later.stride:
            _check_early_end(run, stage, later)
        elif stage.stride == later.stride:
            _check_late_end(run, stage, later)


class ModelRun(NamedTuple):
    """One run of a model under test, with what each of its modules gave, to see where its stages end."""

    card: Card
    model: nn.Module
    anatomy: Anatomy
    runs: dict[str, ModuleRun]

    def parameters_between(self, stage: Stage, later: Stage) -> list[str]:
        """Names of the parameters that the map of the later stage was computed with, not by the map of the other."""
        known = {id(tensor): name for name, tensor in self.model.named_parameters()}
        return [known[each] for each in _reached(self.runs[later.output], self.runs[stage.output]) if each in known]

    def outside(self, names: Iterable[str]) -> list[str]:
        """The largest modules around these tensors that are in no stage, stem or head site, and hold none of these."""
        listed = [*self.anatomy.stem, *(head.path for head in self.anatomy.heads)]
        listed += [path for stage in self.anatomy.stages for path in stage.modules]
        result: dict[str, None] = {}
        for name in names:
            parts = name.split(".")[:-1]
            paths = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
            if not any(path in listed for path in paths):
                whole = [path for path in paths if not any(under(each, path) for each in listed)]
                result.update(dict.fromkeys(whole[:1]))
        return [*result]

    def is_alike(self, path: str, stage: Stage) -> bool:
        """Whether a module has layers, and gives a map of the shape that the stage gives."""
        return path in self.runs and self.runs[path].shape == self.runs[stage.output].shape and self.has_layers(path)

    def has_layers(self, path: str) -> bool:
        """Whether a module has convolutions or linear layers."""
        kinds = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001 - the base of all
        return any(isinstance(each, kinds) for each in self.model.get_submodule(path).modules())


def _reached(run: ModuleRun, before: ModuleRun) -> set[int]:
    """The ids of the parameters that the map of a stage was computed with, not by the map at the border before it."""
    result: set[int] = set()
    seen, waiting = {*before.nodes}, [*(run.nodes - before.nodes)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            result.add(id(node.variable))
        waiting += [each for each, _ in node.next_functions if each is not None]
    return result


def _check_end_of_block(run: ModelRun, stage: Stage, later: Stage) -> None:
    """No stage ends inside a block, whose map is another one: what the block adds to it goes around the border."""
    parts = stage.output.split(".")
    blocks = [".".join(parts[:count]) for count in range(1, len(parts))]
    blocks = [path for path in blocks if run.is_alike(path, stage) and not under(later.output, path)]
    blocks = [path for path in blocks if not run.runs[path].nodes & run.runs[stage.output].nodes]
    if not blocks:
        return
    names = run.parameters_between(stage, later)
    around = [name for name in names if any(under(name, path) for path in stage.modules)]
    require(
        not around,
        f"{run.card.id}: stage {stage.name} ends inside {blocks[-1]!r}: stage {later.name} is computed from "
        f"{', '.join(around[:3])} beside the map of {stage.output!r}",
    )


def _check_early_end(run: ModelRun, stage: Stage, later: Stage) -> None:
    """No module of no stage, after the border of one, gives one more map of the same shape before the next stage.

    Where a stage ends with a pool, that is its border, and layers after it are of the next one. A module in the next
    stage, or after the last one, may give such a map: their libraries cut GhostNets and EfficientNets so.
    """
    if not run.has_layers(stage.output):
        return
    left = [path for path in run.outside(run.parameters_between(stage, later)) if run.is_alike(path, stage)]
    require(
        not left,
        f"{run.card.id}: stage {stage.name} ends before {left[:1]}, {_ALIKE}, and is in no stage: name it last in "
        "that stage",
    )


def _check_late_end(run: ModelRun, stage: Stage, later: Stage) -> None:
    """No stage goes on after the border where the resolution changes, with the first modules of the next stage."""
    last = run.runs[stage.output].shape
    shapes = {path: run.runs[path].shape for path in stage.modules[:-1] if path in run.runs and run.has_layers(path)}
    larger = [
        path
        for path, shape in shapes.items()
        if len(shape) == len(last) and all(shape[part].numel() > last[part].numel() for part in _PLACES)
    ]
    require(
        not larger,
        f"{run.card.id}: stage {stage.name} goes on after its resolution changes: {larger[:1]} gives larger maps than "
        f"{stage.output!r}, whose stride of {stage.stride} is that of stage {later.name}",
    )
