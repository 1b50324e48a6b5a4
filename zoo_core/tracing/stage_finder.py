"""Stages: the modules between changes of the resolution or of the token grid, with channels, strides and layout."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.utils._pytree import tree_flatten_with_path, tree_iter

from zoo_core.contract.anatomy import Stage
from zoo_core.tracing.last_layers import IMAGES
from zoo_core.tracing.program import ItemOf
from zoo_core.tracing.recording import Ref

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.tracing.recording import Call, Dataflow

Layout = Literal["NCHW", "NHWC", "NLC"]
_LAYER = nn.Linear | nn.modules.conv._ConvNd  # noqa: SLF001 - the base of all
_IMAGE_AXES = 4
_GATED = frozenset({"mul", "imul", "matmul", "bmm", "baddbmm", "einsum"}) | {
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
}
"""Products whose first factor leads on to the output; the others are a gate, or the keys and values of attention."""
_ON_LAST_AXIS = frozenset({"linear", "layer_norm", "rms_norm", "embedding", "lstm", "gru", "rnn_tanh", "rnn_relu"})
"""Layers that need the channels on the last axis, so that a signal that they gave is ``[N, L, C]``."""
_ON_SECOND_AXIS = ("conv", "batch_norm", "instance_norm", "group_norm")
"""How layers begin that need the channels on the second axis: what they gave is ``[N, C, L]``."""
_TURNING = frozenset({"transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "mT"})
"""Functions that exchange the axes of a signal, which has two beside the batch: after two of them it is as before."""
_MANY = 4
"""Times as many channels as before: what makes so many prepares them for the head."""


@dataclass(frozen=True)
class Map:
    """What a tensor is, if it is a feature map: its channels, stride and layout, from which stages are told.

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
    """A module that belongs to one stage as a whole.

    Attributes:
        path: Where it is.
        kind: Its class.
        map: The feature map that it gives.
        outputs: The tensors that it gives and that are needed later.
        layers: How many linear and convolutional layers it has.
        is_block: Whether it has such a layer and is none.
        has_blocks: Whether it has a part that is a block.
        several: Whether it gives maps of several resolutions.
        read: As of a stage: where the map is in what it gives, unless that is the map.
    """

    path: str
    kind: type[nn.Module]
    map: Map
    outputs: frozenset[int]
    layers: int
    is_block: bool
    has_blocks: bool
    several: bool
    read: ItemOf | None

    @property
    def parent(self) -> str:
        """Path of the module that it is in."""
        return self.path.rpartition(".")[0]


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

    def _side(self, flow: Dataflow) -> tuple[int, ...]:
        shapes = [flow.recording.shapes[value] for value in flow.recording.inputs]
        image = next((shape[-2:] for shape in shapes if len(shape) in IMAGES), ())
        convs = (op for op in self.flow.recording.ops if op.name.startswith("conv") and self.flow.moving(op))
        first = next((self.flow.moving(op)[0] for op in convs), None)
        axis = -2 if first is not None and self._is_channels_last(first) else -1  # turned before it is convolved
        return tuple(image or next((shape[axis:][:1] for shape in shapes if len(shape) == 3), ()))  # noqa: PLR2004 - N, C, L

    def map_of(self, value: int) -> Map | None:
        """The feature map that a tensor is; None where it is none."""
        if value not in self._known:
            self._known[value] = self._read(value) if self.side and value in self.flow.from_input else None
        return self._known[value]

    def deepest(self, outputs: Iterable[int]) -> int:
        """The last of the tensors of lowest resolution on the way to some outputs.

        Of a product the first factor is on the way: the others are the keys and values of attention, or a gate. Where
        everything passes through a tensor of that resolution, later ones beside which it is still needed, such as the
        weights of a pool by attention, are not meant.
        """
        recording, todo, way = self.flow.recording, [*outputs], set[int]()
        while todo:
            number = recording.producer.get(todo.pop())
            if number is not None and number not in way:
                way.add(number)
                moving = self.flow.moving(recording.ops[number])
                todo += moving[:1] if recording.ops[number].name in _GATED else moving
        made = [value for number in sorted(way) for value in recording.ops[number].outputs if value in self.given_out]
        maps = [(result.stride, index) for index, value in enumerate(made) if (result := self.map_of(value))]
        lowest = [made[index] for stride, index in maps if stride == max(maps)[0]]
        cuts = {*self.flow.cuts(outputs)}
        return ([value for value in lowest if value in cuts] or lowest or [-1])[-1]

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
            if len(shape) != 3 or self._is_channels_last(value):  # noqa: PLR2004 - N, C, L
                return None
            stride = self._stride(0, shape[-1], other[-1] if other else None)
            return Map(_whole(stride), shape[1], "NCHW") if stride else None
        if len(shape) == 3:  # noqa: PLR2004 - N, L, C
            return self._tokens(shape, other) if self.axes == _IMAGE_AXES else None  # else tokens of frames too
        return self._image(shape, other) if len(shape) == self.axes else None

    def _is_channels_last(self, value: int) -> bool:
        """Whether the layers that made a signal compute on its last axis, as those of tokens ``[N, L, C]`` do."""
        recording, turned = self.flow.recording, False
        while (number := recording.producer.get(value)) is not None:
            op = recording.ops[number]
            if op.name in _ON_LAST_AXIS:
                return not turned
            if op.name.startswith(_ON_SECOND_AXIS):
                break
            turned ^= op.name in _TURNING
            value = self.flow.moving(op)[0]
        return turned

    def _image(self, shape: tuple[int, ...], other: tuple[int, ...] | None) -> Map | None:
        layouts: tuple[tuple[Layout, tuple[int, int], int], ...] = (("NCHW", (-2, -1), 1), ("NHWC", (-3, -2), -1))
        for layout, at, axis in layouts:
            if 1 in (shape[at[0]], shape[at[1]]):
                continue
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
        stride = math.sqrt(area / shape[1])
        for whole in (_whole(stride, near=0.015), 2 ** round(math.log2(max(stride, 1)))):
            divides = whole.bit_count() == 1 or not any(side % whole for side in self.side)
            if shape[1] > 1 and divides and math.isclose(whole, stride, rel_tol=0.2):
                return Map(whole, shape[2], "NLC")
        return None


def _whole(stride: float, near: float = 0.003) -> int:
    """The stride that is the nearest integer, or a near power of two: layers without padding cut the border off."""
    nearest = max(round(stride), 1)
    power = 2 ** round(math.log2(max(stride, 1)))
    if math.isclose(nearest, stride, rel_tol=near) or not math.isclose(power, stride, rel_tol=0.2):
        return int(nearest)
    return int(power)


def find_stages(
    model: nn.Module, grid: Grid, outputs: Sequence[int], anatomy: Anatomy
) -> tuple[tuple[Stage, ...], Layout]:
    """The stages of a recorded model.

    Args:
        model: What was recorded.
        grid: Reads its feature maps.
        outputs: What the trunk is needed for.
        anatomy: Its stem and heads.

    Returns:
        The stages, first to last, and how their maps lie.
    """
    deepest = grid.deepest(outputs)
    end = grid.flow.recording.producer.get(deepest, -1) + 1
    trunk = _Trunk(model, grid, grid.flow.live(outputs), {*grid.flow.cuts([deepest])}, end)
    units = trunk.units()
    if any(unit.is_block for unit in units):
        groups = [
            group for group in map(_trimmed_stage, _by_stride(_without_stem(model, units, anatomy.stem))) if group
        ]
        bare = [not any(unit.is_block for unit in group) for group in groups]
        groups = groups[1:] if bare and bare[0] and not all(bare) else groups  # a stem of several layers
    else:
        groups = _stages_without_blocks(_by_stride(units))
    passed = [unit for unit in trunk.whole.values() if len(unit.outputs) > 1 or unit.outputs <= trunk.cuts]
    groups = _isotropic_stages(_growing_strides(groups), passed)
    layouts = Counter(group[-1].map.layout for group in groups)
    layout: Layout = layouts.most_common(1)[0][0] if layouts else "NCHW"
    stages = [
        Stage(name, tuple(unit.path for unit in group), group[-1].map.channels, group[-1].map.stride, group[-1].read)
        for name, group in zip(_stage_names(groups), groups, strict=True)
    ]
    return tuple(stages), layout


class _Trunk:
    """The modules one after another through which everything passes, each of one resolution, to group into stages.

    Args:
        model: What was recorded.
        grid: Reads its feature maps.
        live: The tensors that are needed before each op.
        cuts: Those through which everything passes on its way to the deepest one.
        end: Number of the op at which the trunk ends.
    """

    def __init__(self, model: nn.Module, grid: Grid, live: list[frozenset[int]], cuts: set[int], end: int) -> None:
        self.model, self.grid, self.live, self.cuts, self.end = model, grid, live, cuts, end
        self.known = {*grid.flow.recording.inputs}  # what may be needed later beside what a unit gives
        self.opened = 0  # layers in modules that hold more than one unit, as does what mostly consists of such
        self.whole: dict[str, Unit] = {}  # every module that may be a unit, those inside others too

    def units(self) -> list[Unit]:
        """In the order they run."""
        return self._inside(self.grid.flow.recording.root)

    def _inside(self, call: Call) -> list[Unit]:
        result: list[Unit] = []
        for child in call.children:
            if isinstance(child, int):
                taken = self.grid.flow.moving(self.grid.flow.recording.ops[child])
                if taken and self.known.issuperset(taken):
                    self.known.update(self.grid.flow.recording.ops[child].outputs)
            elif child.start < self.end or child.end == self.end:
                result += self._of(child)
        return result

    def _of(self, call: Call) -> list[Unit]:
        """The module as one unit, or those in it where its resolution changes twice."""
        live = self.live[call.end] if call.end <= self.end else frozenset()
        outputs = live & {*call.outputs}
        outputs = frozenset() if live - outputs - self.known else outputs
        again, known = call.path in self.whole, {*self.known}
        unit = self._whole(call, outputs)
        if unit:
            self.whole.setdefault(call.path, unit)
        opened = self.opened
        result = self._inside(call)
        before = self._stride_before(call)
        is_open = unit and unit.map.stride > before and 2 * (self.opened - opened) > unit.layers
        if unit and not is_open and not _spans_stages(before, result, unit):
            self.known = known
            result = [] if again else [unit]
        elif unit:
            self.opened = opened + unit.layers
        self.known |= outputs
        return result

    def _whole(self, call: Call, outputs: frozenset[int]) -> Unit | None:
        maps = {value: result for value in sorted(outputs) if (result := self.grid.map_of(value))}
        if not maps:
            return None
        module, first = self.model.get_submodule(call.path), next(iter(maps))
        layers = sum(isinstance(each, _LAYER) for each in module.modules())
        if layers <= 1 and not outputs <= self.cuts:
            return None  # one layer of a branch
        return Unit(
            call.path,
            type(module),
            maps[first],
            outputs,
            layers,
            is_block=_is_block(module),
            has_blocks=any(_is_block(each) for each in module.children()),
            several=len({each.stride for each in maps.values()}) > 1,
            read=None if isinstance(call.output, Ref) else ItemOf(_key_of_map(call.output, first)),
        )

    def _stride_before(self, call: Call) -> int:
        taken = [each.value for each in tree_iter((call.args, call.kwargs)) if isinstance(each, Ref)]
        return min((result.stride for value in taken if (result := self.grid.map_of(value))), default=1)


def _spans_stages(before: int, inner: list[Unit], whole: Unit) -> bool:
    """Whether a module spans stages: the resolution changes twice inside, or after blocks with most of its layers."""
    first = [unit for unit in inner if unit.map.stride == before and unit.has_blocks]
    at_end = whole.map.stride > before and len(first) > 1 and 2 * _layers(first) > whole.layers
    return at_end or any(before < unit.map.stride < whole.map.stride for unit in inner)


def _is_block(module: nn.Module) -> bool:
    return not isinstance(module, _LAYER) and any(isinstance(each, _LAYER) for each in module.modules())


def _key_of_map(output: object, value: int) -> tuple[Any, ...]:
    """Key of a feature map in the output of a stage's last module."""
    leaves, _ = tree_flatten_with_path(output)
    path = next(path for path, leaf in leaves if isinstance(leaf, Ref) and leaf.value == value)
    return tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)


def _by_stride(units: list[Unit]) -> list[list[Unit]]:
    """The units that follow one another at one stride, as one stage; one that gives maps of several is alone."""
    result: list[list[Unit]] = []
    for unit in units:
        last = result[-1][-1] if result else None
        if last and unit.map.stride == last.map.stride and not unit.several and not last.several:
            result[-1].append(unit)
        else:
            result.append([unit])
    return result


def _stages_without_blocks(groups: list[list[Unit]]) -> list[list[Unit]]:
    """The stages of layers without blocks, as VGG has them: the stem is of the first, a pool at the end of the last."""
    result: list[list[Unit]] = []
    for group in groups:
        last = result[-1][-1].map if result else None
        if any(unit.layers for unit in group) or (last and group[-1].map.channels != last.channels):
            result.append(group)  # without layers of its own it joins branches
        elif last and group[-1].map.stride > last.stride:
            result[-1] = [*result[-1], *group]
    return result


def _trimmed_stage(group: list[Unit]) -> list[Unit]:
    """A stage without what has no layers at its front, and without what belongs to the head after its blocks.

    That is not in the module that the blocks are in. A bare layer that makes somewhat more channels is the last one of
    the stage, as in NFNets; one that makes four times as many, as in EfficientNets, is of the head.
    """
    rest = group
    while rest and not rest[0].layers:
        rest = rest[1:]
    if not any(unit.is_block for unit in rest):
        return rest
    layers = Counter[str]()
    for unit in rest:
        layers[unit.parent] += unit.layers
    around = max(layers, key=lambda path: layers[path])
    while _is_of_head(rest, around):
        rest = rest[:-1]
    return rest


def _is_of_head(rest: list[Unit], around: str) -> bool:
    """Whether the last unit of a stage belongs to the head after it."""
    *before, last = rest
    if not before:
        return False
    if not last.layers:
        return len(before[-1].outputs) == 1  # else it joins what the block before it gives
    widens = 1 < last.map.channels / before[-1].map.channels < _MANY
    return last.parent != around and (last.is_block or not widens)


def _without_stem(model: nn.Module, units: list[Unit], stem: Sequence[str]) -> list[Unit]:
    """The units of the stages, after the stem: the largest module with no more layers than what follows."""
    for path in stem:
        for end in (*(index for index, letter in enumerate(path) if letter == "."), len(path)):
            prefix = f"{path[:end]}."
            inside = [f"{unit.path}.".startswith(prefix) or prefix.startswith(f"{unit.path}.") for unit in units]
            after = max((index + 1 for index, within in enumerate(inside) if within), default=0)
            is_first = all(within or not unit.layers for unit, within in zip(units[:after], inside, strict=False))
            if _share_blocks(model, units[:after], units[after:], stem):
                continue
            if is_first and 0 < _layers(units[:after]) <= _layers(units[after:]):
                units = units[after:]
                break
    return units


def _share_blocks(model: nn.Module, first: Iterable[Unit], later: Iterable[Unit], stem: Sequence[str]) -> bool:
    """Whether the first units have blocks, after the stem, of a kind that later ones have too: a stage, and no stem."""

    def kinds(units: Iterable[Unit]) -> set[type[nn.Module]]:
        return {
            type(module)
            for unit in units
            for name, module in model.get_submodule(unit.path).named_modules(prefix=unit.path)
            if not any(f"{each}.".startswith(f"{name}.") for each in stem)
            and not type(module).__module__.startswith("torch.nn")
            and sum(isinstance(each, _LAYER) and getattr(each, "groups", 1) == 1 for each in module.modules()) > 1
        }

    own = kinds(first)
    return bool(own) and not own.isdisjoint(kinds(later))


def _layers(units: Iterable[Unit]) -> int:
    return sum(unit.layers for unit in units)


def _growing_strides(groups: list[list[Unit]]) -> list[list[Unit]]:
    """The stages whose strides grow, each a multiple of the one before: small maps are rounded up at their border."""
    result: list[list[Unit]] = []
    last = 1
    for group in groups:
        read = group[-1].map
        if read.stride < last:
            continue
        times = max(round(read.stride / last), 1)
        near = math.isclose(times * last, read.stride, rel_tol=0.2)
        last = times * last if near else read.stride
        result.append([*group[:-1], replace(group[-1], map=replace(read, stride=last))])
    return result


def _isotropic_stages(groups: list[list[Unit]], whole: Sequence[Unit]) -> list[list[Unit]]:
    """Stages of a model whose resolution never changes: each of the blocks that run one after another.

    A block of which the output is added to its input elsewhere is no stage: what it gives is a part of the map.
    """
    if len(groups) != 1:
        return groups
    within = tuple(f"{unit.path}." for unit in groups[0])
    kinds: dict[tuple[str, type[nn.Module]], list[Unit]] = {}
    for unit in whole:
        if unit.is_block and f"{unit.path}.".startswith(within):
            kinds.setdefault((unit.parent, unit.kind), []).append(unit)
    blocks = max(kinds.values(), key=len, default=[])
    if layers := _repeated([unit for units in kinds.values() for unit in units], {unit.path for unit in whole}):
        return layers
    return [[unit] for unit in blocks] if len(blocks) > 1 else groups


def _repeated(blocks: Iterable[Unit], whole: Collection[str]) -> list[list[Unit]]:
    """Layers that are lists of blocks, as ``ModuleList([attention, feed_forward])``: each of them is a stage."""
    layers: dict[str, list[Unit]] = {}
    for unit in blocks:
        if unit.parent not in whole:
            layers.setdefault(unit.parent, []).append(unit)
    alike: dict[tuple[str, tuple[type[nn.Module], ...]], list[list[Unit]]] = {}
    for path, units in layers.items():
        if len(units) > 1:
            alike.setdefault((path.rpartition(".")[0], tuple(unit.kind for unit in units)), []).append(units)
    result = max(alike.values(), key=len, default=[])
    return result if len(result) > 1 else []


def _stage_names(groups: list[list[Unit]]) -> list[str]:
    """Names of stages: those of their modules where these are words, or else numbers."""
    single = all(len(group) == 1 for group in groups)
    names = [group[0].path for group in groups]
    if single and len({*(name.rpartition(".")[2] for name in names)}) == len(names):
        short = [name.rpartition(".")[2] for name in names]
        if not any(name.isdigit() for name in short):
            return short
    return [f"stage{number}" for number in range(1, len(groups) + 1)]
