"""Stages: the modules between changes of the resolution or of the token grid, with channels, strides and layout."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from torch import nn
from torch.utils._pytree import tree_iter

from zoo_core.contract.anatomy import Stage
from zoo_core.tracing.recording import Ref

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.tracing.recording import Call, Dataflow

Layout = Literal["NCHW", "NHWC", "NLC"]


@dataclass(frozen=True)
class Map:
    """What a tensor is, if it is a feature map.

    Attributes:
        stride: Pixels of the input for one step, whole.
        channels: How many.
        layout: How it lies.
    """

    stride: int
    channels: int
    layout: Layout


@dataclass(frozen=True)
class Unit:
    """A module that belongs to one stage as a whole."""

    path: str
    map: Map | None
    value: int | None
    layers: int
    composite: bool


class Grid:
    """Reads feature maps off shapes: of one pass, and of another on a larger input as far as that came.

    Args:
        flow: The pass.
        larger: The other one.
    """

    def __init__(self, flow: Dataflow, larger: Dataflow) -> None:
        self.flow = flow
        self.larger = larger.recording.shapes
        self.batch = next((flow.recording.shapes[value][:1] for value in flow.recording.inputs), ())
        self.axes = max((len(flow.recording.shapes[value]) for value in flow.recording.inputs), default=0)
        self.side = self._side(flow)
        self.larger_side = self._side(larger)
        pairs = zip(flow.recording.ops, larger.recording.ops, strict=False)
        differ = (one for one, two in pairs if (one.name, one.outputs) != (two.name, two.outputs) and one.outputs)
        self.until = next((op.outputs[0] for op in differ), len(self.larger))
        self._known: dict[int, Map | None] = {}

    @staticmethod
    def _side(flow: Dataflow) -> tuple[int, ...]:
        shapes = [flow.recording.shapes[value] for value in flow.recording.inputs]
        image = next((shape[-2:] for shape in shapes if len(shape) in {4, 5}), ())
        return tuple(image or next((shape[-1:] for shape in shapes if len(shape) == 3), ()))  # noqa: PLR2004 - N, C, L

    def map_of(self, value: int) -> Map | None:
        """The feature map that a tensor is; None where it is none."""
        if value not in self._known:
            self._known[value] = self._read(value) if self.side and value in self.flow.from_input else None
        return self._known[value]

    def deepest(self, ops: Iterable[int]) -> int:
        """The last of the tensors of lowest resolution that some ops give."""
        made = [v for number in sorted(ops) for v in self.flow.recording.ops[number].outputs if v in self.given_out]
        maps = [(result.stride, index) for index, value in enumerate(made) if (result := self.map_of(value))]
        return made[max(maps)[1]] if maps else -1

    @cached_property
    def given_out(self) -> frozenset[int]:
        """The tensors that modules give: between them, tokens and channels may change places."""
        return frozenset(value for call in self.flow.recording.calls() for value in call.outputs)

    def _read(self, value: int) -> Map | None:
        shape = self.flow.recording.shapes[value]
        other = self.larger[value] if value < self.until else None
        if other is not None and len(other) != len(shape):
            return None
        if shape[:1] != self.batch:
            return None
        if len(self.side) == 1:
            if len(shape) != 3:  # noqa: PLR2004 - N, C, L
                return None
            stride = self._stride(0, shape[-1], other[-1] if other else None)
            return Map(_whole(stride), shape[1], "NCHW") if stride else None
        if len(shape) == 3:  # noqa: PLR2004 - N, L, C
            return self._tokens(shape, other)
        return self._image(shape, other) if len(shape) == self.axes else None

    def _image(self, shape: tuple[int, ...], other: tuple[int, ...] | None) -> Map | None:
        layouts: tuple[tuple[Layout, tuple[int, int], int], ...] = (("NCHW", (-2, -1), 1), ("NHWC", (-3, -2), -1))
        for layout, at, axis in layouts:
            strides = [self._stride(i, shape[place], other[place] if other else None) for i, place in enumerate(at)]
            same = other is None or shape[axis] == other[axis]
            if same and all(strides) and math.isclose(strides[0], strides[1], rel_tol=0.35 if other else 0.2):
                return Map(_whole(min(strides)), shape[axis], layout)
        return None

    def _stride(self, axis: int, steps: int, more: int | None) -> float:
        if more is not None:
            added = more - steps
            return (self.larger_side[axis] - self.side[axis]) / added if added > 0 else 0
        return self.side[axis] / steps if 1 < steps <= self.side[axis] else 0

    def _tokens(self, shape: tuple[int, ...], other: tuple[int, ...] | None) -> Map | None:
        area = self.side[0] * self.side[1]
        if other is not None:
            added = other[1] - shape[1]
            more = self.larger_side[0] * self.larger_side[1] - area
            return Map(_whole(math.sqrt(more / added)), shape[2], "NLC") if added > 0 and shape[2] == other[2] else None
        return Map(_whole(math.sqrt(area / shape[1]), near=0.015), shape[2], "NLC") if shape[1] > 1 else None


def _whole(stride: float, near: float = 0.003) -> int:
    """The nearest integer, or the power of two that is near: layers without padding cut the border off."""
    nearest = max(round(stride), 1)
    power = 2 ** round(math.log2(max(stride, 1)))
    if math.isclose(nearest, stride, rel_tol=near) or not math.isclose(power, stride, rel_tol=0.2):
        return int(nearest)
    return int(power)


def find_stages(
    model: nn.Module, grid: Grid, cuts: Sequence[int], anatomy: Anatomy, end: int
) -> tuple[tuple[Stage, ...], Layout]:
    """The stages of a recorded model.

    Args:
        model: What was recorded.
        grid: Reads its feature maps.
        cuts: The tensors through which everything passes.
        anatomy: Its stem and heads.
        end: Number of the op at which the trunk ends.

    Returns:
        The stages, first to last, and how their maps lie.
    """
    stem, around = anatomy.stem, _around(anatomy)
    units = _units(model, grid, {*cuts}, end)
    groups: list[list[Unit]] = []
    for unit in units:
        if groups and unit.map and groups[-1][-1].map and unit.map.stride == groups[-1][-1].map.stride:
            groups[-1].append(unit)
        elif unit.map:
            groups.append([unit])
    groups = [group for group in (_trimmed(group, stem, around) for group in _without_embedding(groups, stem)) if group]
    groups = _downward(_without_stem(groups, stem))
    groups = _isotropic(model, grid, {*cuts}, groups)
    layouts = Counter(group[-1].map.layout for group in groups if group[-1].map)
    layout: Layout = layouts.most_common(1)[0][0] if layouts else "NCHW"
    names = _names(groups)
    stages = []
    for name, group in zip(names, groups, strict=True):
        result = group[-1].map
        if result is not None:
            stages.append(Stage(name, tuple(unit.path for unit in group), result.channels, result.stride))
    return tuple(stages), layout


def _units(model: nn.Module, grid: Grid, cuts: set[int], end: int) -> list[Unit]:
    result: list[Unit] = []
    seen: set[str] = set()

    def visit(call: Call) -> None:
        for child in call.children:
            if isinstance(child, int) or child.start >= end:
                continue
            values = [value for value in child.outputs if value in cuts]
            if _spans(grid, child, cuts, end) or not values or child.end > end:
                visit(child)
            elif child.path not in seen:
                seen.add(child.path)
                result.append(_unit(model.get_submodule(child.path), child.path, grid, values[-1]))

    visit(grid.flow.recording.root)
    return result


def _spans(grid: Grid, call: Call, cuts: set[int], end: int) -> bool:
    """Whether the resolution changes inside a call other than once at its beginning."""
    recording = grid.flow.recording
    if call.end > end:
        return True
    taken = next((grid.map_of(value) for value in _taken(call)), None)
    shown = cuts & grid.given_out
    made = [value for number in range(call.start, call.end) for value in recording.ops[number].outputs]
    strides = [result.stride for value in made if value in shown and (result := grid.map_of(value))]
    while strides and taken and strides[0] == taken.stride:
        strides.pop(0)
    return len({*strides}) > 1


def _taken(call: Call) -> list[int]:
    return [each.value for each in tree_iter((call.args, call.kwargs)) if isinstance(each, Ref)]


def _around(anatomy: Anatomy) -> set[str]:
    """Paths of the modules that a head site is in."""
    parts = [head.path.split(".") for head in anatomy.heads]
    return {".".join(each[:depth]) for each in parts for depth in range(1, len(each))}


def _trimmed(group: list[Unit], stem: Sequence[str], around: set[str]) -> list[Unit]:
    """A group without the stem at its front, and without what belongs to the head: single layers after its blocks."""

    def in_stem(unit: Unit) -> bool:
        return any(path == unit.path or path.startswith(f"{unit.path}.") for path in stem)

    start = next((i + 1 for i in reversed(range(len(group))) if in_stem(group[i])), 0)
    rest = group[start:]
    while rest and not rest[0].layers:
        rest = rest[1:]
    if any(unit.composite for unit in rest):
        while not rest[-1].composite or (
            len(rest) > 1 and rest[-1].layers == 1 and _parent(rest[-1]) in around - {_parent(rest[-2])}
        ):
            rest = rest[:-1]
    return rest


def _parent(unit: Unit) -> str:
    return unit.path.rpartition(".")[0]


def _without_stem(groups: list[list[Unit]], stem: Sequence[str]) -> list[list[Unit]]:
    """The groups without those that lie in a module around the stem in which no other group lies."""
    for path in stem:
        for end in (index for index, letter in enumerate(path) if letter == "."):
            inside = [all(unit.path.startswith(path[: end + 1]) for unit in group) for group in groups]
            if 0 < sum(inside) < len(groups) - sum(inside):
                return [group for group, within in zip(groups, inside, strict=True) if not within]
    leaves = [not any(unit.composite for unit in group) for group in groups]
    return groups[1:] if leaves and leaves[0] and not all(leaves) else groups


def _without_embedding(groups: list[list[Unit]], stem: Sequence[str]) -> list[list[Unit]]:
    """The groups without convolutions that make patches: a small module around the stem that ends inside a group."""
    for path in stem:
        for end in (index for index, letter in enumerate(path) if letter == "."):
            prefix = path[: end + 1]
            kept = [[unit for unit in group if not unit.path.startswith(prefix)] for group in groups]
            before, after = (sum(unit.layers for group in each for unit in group) for each in (groups, kept))
            ends_inside = any(0 < len(rest) < len(group) for rest, group in zip(kept, groups, strict=True))
            if ends_inside and before - after < after:
                return [group for group in kept if group]
    return groups


def _downward(groups: list[list[Unit]]) -> list[list[Unit]]:
    """The groups whose strides grow, each a multiple of the one before: small maps are rounded up at their border."""
    result: list[list[Unit]] = []
    last = 1
    for group in groups:
        read = group[-1].map
        if read is None or read.stride < last:
            continue
        times = max(round(read.stride / last), 1)
        near = math.isclose(times * last, read.stride, rel_tol=0.2)
        last = times * last if near else read.stride
        result.append([*group[:-1], replace(group[-1], map=replace(read, stride=last))])
    return result


def _isotropic(model: nn.Module, grid: Grid, cuts: set[int], groups: list[list[Unit]]) -> list[list[Unit]]:
    """Where the resolution never changes, each of the blocks that run one after another is a stage of its own."""
    if len(groups) != 1:
        return groups
    best: list[Unit] = []
    for call in (grid.flow.recording.root, *grid.flow.recording.calls()):
        blocks: dict[type[nn.Module], list[Unit]] = {}
        for child in call.children:
            if not isinstance(child, int) and (made := [value for value in child.outputs if value in cuts]):
                module = model.get_submodule(child.path)
                unit = _unit(module, child.path, grid, made[-1])
                if unit.layers and unit.composite and unit.map:
                    blocks.setdefault(type(module), []).append(unit)
        best = max([best, *blocks.values()], key=len)
    return [[unit] for unit in best] if len(best) > 1 else groups


def _unit(module: nn.Module, path: str, grid: Grid, value: int) -> Unit:
    layers = sum(isinstance(each, nn.Linear | nn.modules.conv._ConvNd) for each in module.modules())  # noqa: SLF001 - the base of all
    return Unit(path, grid.map_of(value), value, layers, _is_block(module, layers))


def _is_block(module: nn.Module, layers: int) -> bool:
    is_layer = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)  # noqa: SLF001 - as above; one may hold its padding
    return layers > 0 and not is_layer and any(True for _ in module.children())


def _names(groups: list[list[Unit]]) -> list[str]:
    single = all(len(group) == 1 for group in groups)
    names = [group[0].path for group in groups]
    if single and len({*(name.rpartition(".")[2] for name in names)}) == len(names):
        short = [name.rpartition(".")[2] for name in names]
        if not any(name.isdigit() for name in short):
            return short
    return [f"stage{number}" for number in range(1, len(groups) + 1)]
