"""Feature maps of a recorded pass, read off the shapes of its tensors, and modules that give a part of a map only."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NoReturn

from torch.utils._pytree import tree_flatten_with_path, tree_iter

from zoo_core.contract.anatomy import Anatomy
from zoo_core.errors import NotSupported
from zoo_core.tracing.last_layers import IMAGES
from zoo_core.tracing.program import ItemOf
from zoo_core.tracing.recording import Call, Dataflow, Op, Ref

Reads = Mapping["Layout", ItemOf | None]

Layout = Literal["NCHW", "NHWC", "NLC"]
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

_MOVES = _TURNING | {"view", "reshape", "flatten", "unflatten", "contiguous", "clone"}
"""Functions that give the same numbers with their axes elsewhere."""
_WRITES = frozenset({"setitem", "index_put", "index_copy", "index_add", "scatter", "scatter_add", "masked_scatter"})
"""Functions that write a tensor into a part of another: into some samples, as in mixtures of experts."""
_SUMS = frozenset({"add", "radd", "iadd"})


@dataclass(frozen=True)
class Map:
    """What a tensor is, if it is a feature map: its channels, stride and layout, from which stages are told.

    Attributes:
        stride: Pixels of the input for one step, whole.
        channels: How many.
        layout: The order of its axes.
    """

    stride: int
    channels: int
    layout: Layout


class Grid:
    """Reads feature maps off shapes: of one pass, and of another on a larger input as far as that came."""

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

    def is_same_map(self, value: int, other: int) -> bool:
        """Whether two tensors are one map in two layouts: one is the other, or both a third, with its axes moved."""
        one, two = self.map_of(value), self.map_of(other)
        if one is None or two is None or (one.channels, one.stride) != (two.channels, two.stride):
            return False
        return self._before_moves(value) == self._before_moves(other)

    def have_one_stride(self, value: int, other: int) -> bool:
        """Whether two tensors are maps of the same stride."""
        one, two = self.map_of(value), self.map_of(other)
        return one is not None and two is not None and one.stride == two.stride

    def _before_moves(self, value: int) -> int:
        """The tensor whose axes were moved, or joined, to give this map."""
        recording = self.flow.recording
        while (number := recording.producer.get(value)) is not None and recording.ops[number].name in _MOVES:
            value = self.flow.moving(recording.ops[number])[0]
        return value

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
            return Map(self._whole(stride), shape[1], "NCHW") if stride else None
        if len(shape) == 3:  # noqa: PLR2004 - N, L, C
            return self._tokens(value, shape, other) if self.axes == _IMAGE_AXES else None  # else tokens of frames too
        return self._image(value, shape, other) if len(shape) == self.axes else None

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

    def _image(self, value: int, shape: tuple[int, ...], other: tuple[int, ...] | None) -> Map | None:
        layouts: tuple[tuple[Layout, tuple[int, int], int], ...] = (("NCHW", (-2, -1), 1), ("NHWC", (-3, -2), -1))
        for layout, at, axis in layouts:
            if 1 in (shape[at[0]], shape[at[1]]):
                continue
            strides = [self._stride(i, shape[place], other[place] if other else None) for i, place in enumerate(at)]
            same = other is None or shape[axis] == other[axis]
            if same and all(strides) and math.isclose(strides[0], strides[1], rel_tol=0.35 if other else 0.2):
                stride = min(strides)
                return Map(self._laid(value, stride) or self._whole(stride), shape[axis], layout)
        return None

    def _stride(self, axis: int, steps: int, more: int | None) -> float:
        if more is not None:
            added = more - steps
            return (self.larger_side[axis] - self.side[axis]) / added if added > 0 else 0
        return self.side[axis] / steps if 1 < steps <= self.side[axis] else 0

    def _tokens(self, value: int, shape: tuple[int, ...], other: tuple[int, ...] | None) -> Map | None:
        area = self.side[0] * self.side[1]
        if other is not None:
            added = other[1] - shape[1]
            if added <= 0 or shape[2] != other[2]:
                return None
            stride = math.sqrt((self.larger_side[0] * self.larger_side[1] - area) / added)
            return Map(self._laid(value, stride) or self._whole(stride), shape[2], "NLC")
        stride = math.sqrt(area / shape[1])
        if 2 * stride > min(self.side):
            return None  # class tokens alone, of which a distilled model has two
        if laid := self._laid(value, stride):
            return Map(laid, shape[2], "NLC")
        for whole in (self._whole(stride, near=0.015), 2 ** round(math.log2(max(stride, 1)))):
            divides = whole.bit_count() == 1 or not any(side % whole for side in self.side)
            if divides and math.isclose(whole, stride, rel_tol=0.2):
                return Map(whole, shape[2], "NLC")
        return None

    def _laid(self, value: int, stride: float) -> int | None:
        """The stride at which convolutions lay the steps of a map, if about that many fit into the input.

        A patch of 14 pixels leaves the rest of 384 out, and one of 14 every 7 pixels covers 224 with 31 steps.
        """
        laid = self._strides_so_far.get(value, 1)
        return laid if laid > 1 and math.isclose(laid, stride, rel_tol=0.05) else None

    @cached_property
    def _strides_so_far(self) -> dict[int, int]:
        """Product of the strides of the convolutions on the way to each tensor; the largest, where ways join."""
        result: dict[int, int] = {}
        for op in self.flow.recording.ops:
            so_far = max((result.get(value, 1) for value in self.flow.moving(op)), default=1) * self._stride_of(op)
            result.update(dict.fromkeys(op.outputs, so_far))
        return result

    @staticmethod
    def _stride_of(op: Op) -> int:
        """The stride of a convolution along a row; one for any other function."""
        if op.name != "conv2d":
            return 1
        stride = op.kwargs.get("stride", op.args[3] if len(op.args) > 3 else 1)  # noqa: PLR2004 - its fourth argument
        return int(stride[-1]) if isinstance(stride, tuple | list) else int(stride)

    @staticmethod
    def _whole(stride: float, near: float = 0.003) -> int:
        """The stride that is the nearest integer, or a near power of two: layers without padding cut the border off."""
        nearest = max(round(stride), 1)
        power = 2 ** round(math.log2(max(stride, 1)))
        if math.isclose(nearest, stride, rel_tol=near) or not math.isclose(power, stride, rel_tol=0.2):
            return int(nearest)
        return int(power)


def gives_part(grid: Grid, path: str, outputs: Collection[int]) -> bool:
    """Whether what a module gives is a part of a map, of which no module gives the whole.

    Its input is added to it; or it is written into a part of another tensor; or it is joined with what other layers
    compute from the same input, as in ``gate * one(x) + (1 - gate) * other(x)``.

    Args:
        grid: Reads the feature maps of the pass.
        path: The module.
        outputs: The tensors that it gives and that are needed later, with a map among them.
    """
    flow = grid.flow
    calls = [call for call in flow.recording.calls() if call.path == path]
    given = {each.value for call in calls for each in tree_iter((call.args, call.kwargs)) if isinstance(each, Ref)}
    if any(op.name in _SUMS and not given.isdisjoint(op.inputs) for op in flow.recording.users(outputs)):
        return True
    main = next(value for value in sorted(outputs) if grid.map_of(value))
    source, joins, todo, own = flow.before_layers(given), list[bool](), [main], {main}
    while todo:
        for op in flow.recording.users([todo.pop()]):
            maps = [value for value in flow.moving(op) if value not in own and grid.have_one_stride(value, main)]
            if op.name in _WRITES:
                joins.append(True)
            elif flow.parameters_of(op) or maps:
                joins.append(any(_is_beside(grid, value, source, main) for value in maps))
            else:
                new = [value for value in op.outputs if value not in own]
                own.update(new)
                todo += new
    return bool(joins) and all(joins)


def _is_beside(grid: Grid, value: int, source: set[int], main: int) -> bool:
    """Whether layers compute a tensor from the ``source`` of a module and no other map, without its ``main`` output.

    What has fewer numbers than the map has places is no map, but a gate.
    """
    recording, made = grid.flow.recording, grid.map_of(main)
    places = math.prod(recording.shapes[main]) // made.channels if made else 0
    todo, seen, has_layers = [value], {value}, False
    while todo:
        number = recording.producer.get(todo.pop())
        if number is None or main in recording.ops[number].outputs:
            return False
        op = recording.ops[number]
        has_layers = has_layers or bool(grid.flow.parameters_of(op))
        maps = [each for each in grid.flow.moving(op) if math.prod(recording.shapes[each]) >= places]
        todo += [each for each in maps if each not in source and each not in seen]
        seen.update(maps)
    return has_layers and value not in source and not seen.isdisjoint(source)


def reads_of(grid: Grid, call: Call, value: int) -> Reads:
    """Where a feature map is in what a module gave, in each layout that it is there in, its own first."""
    if isinstance(call.output, Ref):
        return {result.layout: None for result in [grid.map_of(value)] if result}
    same = [value, *(each for each in call.outputs if grid.is_same_map(each, value))]
    reads: dict[Layout, ItemOf | None] = {}
    leaves, _ = tree_flatten_with_path(call.output)
    for each in same:
        if result := grid.map_of(each):
            steps = next(path for path, leaf in leaves if isinstance(leaf, Ref) and leaf.value == each)
            key = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in steps)
            reads.setdefault(result.layout, ItemOf(key))
    return reads


@dataclass(frozen=True)
class SeveralMaps:
    """In the place of what reads the feature map of a stage: forward runs it on several inputs, one after another.

    Attributes:
        path: The module that gives the maps.
        count: How many.
    """

    path: str
    count: int

    def __call__(self, _model: object, _output: object) -> NoReturn:
        """Read no map.

        Raises:
            NotSupported: Always: which of them is meant is not known.
        """
        raise NotSupported(
            f"the stage that ends with {self.path!r} has {self.count} feature maps, and which is meant is not known",
            cause=f"forward runs {self.path!r} {self.count} times, each time on another input",
            hint=f"zoo.adopt(model.get_submodule({self.path.partition('.')[0]!r}), example=...), the part that runs so "
            "often, gives one map for each input; freezing, heads and saving work on the whole",
        )


def with_several_maps(flow: Dataflow, anatomy: Anatomy) -> Anatomy:
    """The anatomy whose stages have no one feature map where forward runs them on several inputs, as a Siamese does.

    A stage that is run on what it gave itself before has the map that it gave last.
    """
    calls: dict[str, list[list[int]]] = {}
    for call in flow.recording.calls():
        calls.setdefault(call.path, []).append(call.outputs)
    stages = []
    for stage in anatomy.stages:
        *before, last = calls[stage.output]
        ancestors = flow.ancestors(last)
        own = (any(flow.recording.producer.get(value, -1) in ancestors for value in each) for each in before)
        several = SeveralMaps(stage.output, len(before) + 1)
        stages.append(stage if all(own) else replace(stage, read=several))
    return replace(anatomy, stages=tuple(stages))
