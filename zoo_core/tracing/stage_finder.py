"""Stages: the modules between changes of the resolution or of the token grid, with channels, strides and layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.utils._pytree import tree_iter

from zoo_core.contract.anatomy import Anatomy, Stage
from zoo_core.errors import AnatomyError
from zoo_core.text import close_matches, did_you_mean
from zoo_core.tracing.depths import with_depths
from zoo_core.tracing.feature_maps import Grid, Layout, Map, Reads, gives_part, reads_of
from zoo_core.tracing.recording import Call, Dataflow, Op, Ref

if TYPE_CHECKING:
    from zoo_core.tracing.last_layers import Layers
    from zoo_core.tracing.passes import Passes


_LAYER = nn.Linear | nn.modules.conv._ConvNd  # noqa: SLF001 - the base of all
_MANY = 4
"""Times as many channels as before: what makes so many prepares them for the head."""


class Stages(NamedTuple):
    """Stages of a traced model, first to last, and the layout of their maps."""

    stages: tuple[Stage, ...]
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
        reads: Where the map is in what it gives, for each layout that it is there in, its own first.
    """

    path: str
    kind: type[nn.Module]
    map: Map
    outputs: frozenset[int]
    layers: int
    is_block: bool
    has_blocks: bool
    several: bool
    reads: Reads

    @property
    def parent(self) -> str:
        """Path of the module that it is in."""
        return self.path.rpartition(".")[0]


def with_stages(passes: Passes, anatomy: Anatomy, main: Layers, grid: Grid, chosen: Any) -> Anatomy:
    """The traced anatomy with its stages, found or as the user names them.

    Args:
        passes: The recorded model.
        anatomy: Its stem and heads.
        main: The main output, and the last layers before it.
        grid: Reads its feature maps.
        chosen: What the user names: paths of modules, or names to the paths of each stage's modules; None to find them.

    Raises:
        AnatomyError: What is named did not run, gives no map, or gives maps in two layouts.
    """
    if chosen is not None:
        named = _named_stages(passes, grid, chosen)
        if both := in_two_layouts(passes, grid, named.stages):
            raise AnatomyError(f"stages: {both}", expected="maps that are all of one layout, beside tokens at most")
        return with_depths(passes, replace(anatomy, stages=named.stages, layout=named.layout))
    flow = passes.evaluated
    before = [value for number in main.ops.values() for value in _given(flow, flow.recording.ops[number])]
    result = _find_stages(passes, grid, before or _common_to_outputs(flow, main, grid), anatomy)
    return with_depths(passes, replace(anatomy, stages=result.stages, layout=result.layout))


def _common_to_outputs(flow: Dataflow, main: Layers, grid: Grid) -> list[int]:
    """What stages are on the way to where no head is known: what all that forward returns is computed from.

    Maps of growing strides are those of the stages themselves.
    """
    returned = [value for value in flow.recording.root.outputs if value in flow.from_input]
    strides = [read.stride if (read := grid.map_of(value)) else 0 for value in returned]
    if not returned or (strides == sorted({*strides}) and strides[0]):
        return returned or [main.value]
    way = flow.ancestors(returned[:1])
    common = way.intersection(*(flow.ancestors([value]) for value in returned))
    used = {value for number in way - common for value in flow.moving(flow.recording.ops[number])}
    return sorted(value for value in used if flow.recording.producer.get(value) in common) or returned[:1]


def _given(flow: Dataflow, op: Op) -> list[int]:
    """What a head is given, before which stages have to end: in this op, and where else its parameters are used."""
    again = (each for each in flow.recording.ops if op.parameters and each.parameters == op.parameters)
    return [value for each in (op, *again) for value in flow.moving(each)]


def _find_stages(passes: Passes, grid: Grid, outputs: Sequence[int], anatomy: Anatomy) -> Stages:
    """The stages of a recorded model."""
    deepest = grid.deepest(outputs)
    end = grid.flow.recording.producer.get(deepest, -1) + 1
    trunk = _Trunk(passes, grid, grid.flow.live(outputs), {*grid.flow.cuts([deepest])}, end)
    units = trunk.units()
    around = {path[:end] for path in (unit.path for unit in units) for end in range(len(path)) if path[end] == "."}
    units = [unit for unit in units if unit.path not in around]  # of a module that runs twice, and is opened once
    if any(unit.is_block for unit in units):
        units = _without_stem(passes.model, units, anatomy.stem)
        groups = [group for group in map(_trimmed_stage, _by_stride(units)) if group]
        bare = [not any(unit.is_block for unit in group) for group in groups]
        groups = groups[1:] if bare and bare[0] and not all(bare) else groups  # a stem of several layers
    else:
        groups = _stages_without_blocks(_by_stride(units))
    passed = [unit for unit in trunk.whole.values() if len(unit.outputs) > 1 or unit.outputs <= trunk.cuts]
    groups = _isotropic_stages(_growing_strides(groups), passed)
    groups = [group for group in (_up_to_whole_map(group, trunk) for group in groups) if group]
    ends = [group[-1] for group in groups]
    stages = [
        Stage(name, tuple(unit.path for unit in group), end.map.channels, end.map.stride)
        for name, group, end in zip(_stage_names(groups), groups, ends, strict=True)
    ]
    return _read_alike(stages, [end.reads for end in ends])


def _read_alike(stages: Sequence[Stage], reads: Sequence[Reads]) -> Stages:
    """The stages that were found, each with where its map is in the layout that most of them have, if all have it.

    Else the layout is that of those which give no tokens; tokens have an axis less, by which they are told from these.
    """
    layouts = [next(iter(each)) for each in reads]
    frequent = [layout for layout, _ in Counter(layouts).most_common()]
    common = next((layout for layout in frequent if all(layout in each for each in reads)), None)
    chosen = [common] * len(reads) if common else layouts
    read = tuple(replace(stage, read=each[lay]) for stage, each, lay in zip(stages, reads, chosen, strict=True))
    of_maps: Layout = next((layout for layout in frequent if layout != "NLC"), "NCHW")
    return Stages(read, common or of_maps)


def _named_stages(passes: Passes, grid: Grid, chosen: Any) -> Stages:
    """The stages that the user names to ``zoo.trace``, with what the passes show of their maps."""
    named = chosen if hasattr(chosen, "items") else {path.rpartition(".")[2]: (path,) for path in chosen}
    if len(named) < len(chosen):
        named = {path: (path,) for path in chosen}
    calls = {call.path: call for call in passes.evaluated.recording.calls()}
    stages, reads = [], []
    for name, paths in named.items():
        if paths[-1] in passes.chosen:
            raise AnatomyError(
                f"stages: {paths[-1]!r} does not run for all values of the input, or not on all samples",
                hint="name a module around it, or one after it, through which everything passes",
            )
        for path in paths:
            if path not in calls:
                nearest = did_you_mean(close_matches(path, calls), "print(model) shows the path of every module")
                raise AnatomyError(f"stages: {path!r} is no module that ran", hint=nearest)
        call = calls[paths[-1]]
        value, result = next(((each, result) for each in call.outputs if (result := grid.map_of(each))), (0, None))
        if result is None:
            shapes = [passes.evaluated.recording.shapes[value] for value in call.outputs]
            raise AnatomyError(f"stages: {paths[-1]!r} gives no feature map", got=f"tensors of the shapes {shapes}")
        stages.append(Stage(name, tuple(paths), result.channels, result.stride))
        reads.append(reads_of(grid, call, value))
    return _read_alike(stages, reads)


class _Trunk:
    """The modules one after another through which everything passes, each of one resolution, to group into stages."""

    def __init__(self, passes: Passes, grid: Grid, live: list[frozenset[int]], cuts: set[int], end: int) -> None:
        self.model, self.chosen, self.grid = passes.model, passes.chosen, grid
        self.live, self.cuts, self.end = live, cuts, end
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
        spans = unit and (_spans_stages(before, result, unit) or _lists_its_stages(result, unit))
        if unit and not is_open and not spans:
            self.known = known
            result = [] if again else [unit]
        elif unit:
            self.opened = opened + unit.layers
        self.known |= outputs
        return result

    def _whole(self, call: Call, outputs: frozenset[int]) -> Unit | None:
        maps = {value: result for value in sorted(outputs) if (result := self.grid.map_of(value))}
        if not maps or call.path in self.chosen:
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
            reads=reads_of(self.grid, call, first),
        )

    def _stride_before(self, call: Call) -> int:
        taken = [each.value for each in tree_iter((call.args, call.kwargs)) if isinstance(each, Ref)]
        return min((result.stride for value in taken if (result := self.grid.map_of(value))), default=1)


def _spans_stages(before: int, inner: list[Unit], whole: Unit) -> bool:
    """Whether a module spans stages: the resolution changes twice inside, or after blocks with most of its layers."""
    first = [unit for unit in inner if unit.map.stride == before and unit.has_blocks]
    at_end = whole.map.stride > before and len(first) > 1 and 2 * _layers(first) > whole.layers
    return at_end or any(before < unit.map.stride < whole.map.stride for unit in inner)


def _lists_its_stages(inner: list[Unit], whole: Unit) -> bool:
    """Whether a module spans several stages, as an encoder that gives a list of their maps to a decoder.

    What gives maps of several resolutions in its parts too, as those of HRNet, is a stage itself.
    """
    strides = [unit.map.stride for unit in inner]
    made = frozenset[int]().union(*(unit.outputs for unit in inner))
    is_list = whole.several and not any(unit.several for unit in inner)
    return is_list and strides == sorted(strides) and whole.outputs <= made


def _is_block(module: nn.Module) -> bool:
    return not isinstance(module, _LAYER) and any(isinstance(each, _LAYER) for each in module.modules())


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
    """Find stages of layers without blocks, as in VGG: the stem is of the first, a pool at the end of the last."""
    result: list[list[Unit]] = []
    for group in groups:
        last = result[-1][-1].map if result else None
        if any(unit.layers for unit in group) or (last and group[-1].map.channels != last.channels):
            result.append(group)  # without layers of its own it joins branches
        elif last and group[-1].map.stride > last.stride:
            result[-1] = [*result[-1], *group]
    return result


def _up_to_whole_map(group: list[Unit], trunk: _Trunk) -> list[Unit]:
    """A stage up to the last module that gives its whole map, where one does.

    What the module around it joins with that, or adds to it, is a part, and no module gives the two together.
    """
    whole = [index for index, unit in enumerate(group) if len(unit.outputs) > 1 or unit.outputs <= trunk.cuts]
    if whole:
        return group[: whole[-1] + 1]
    return [] if gives_part(trunk.grid, group[-1].path, group[-1].outputs) else group


def _trimmed_stage(group: list[Unit]) -> list[Unit]:
    """A stage without what has no layers at its front, and without what belongs to the head after its blocks.

    That is not in the module that the blocks are in, with most of the layers. A bare layer that makes somewhat more
    channels is the last one of the stage, as in NFNets; one that makes four times as many, as in EfficientNets, is of
    the head.
    """
    rest = group
    while rest and not rest[0].layers:
        rest = rest[1:]
    if not any(unit.is_block for unit in rest):
        return rest
    layers, blocks = Counter[str](), Counter[str]()
    for unit in rest:
        layers[unit.parent] += unit.layers
        blocks[unit.parent] += unit.is_block
    around = max(layers, key=lambda path: (layers[path], blocks[path]))
    while _is_of_head(rest, around):
        rest = rest[:-1]
    return rest


def _is_of_head(rest: list[Unit], around: str) -> bool:
    """Whether the last unit that was found for the stages belongs to the head after them."""
    *before, last = rest
    if not before:
        return False
    if not last.layers:
        return len(before[-1].outputs) == 1  # else it joins what the block before it gives
    widens = 1 < last.map.channels / before[-1].map.channels < _MANY
    return last.parent != around and (last.is_block or not widens)


def _without_stem(model: nn.Module, units: list[Unit], stem: Sequence[str]) -> list[Unit]:
    """The units to find stages in, after the stem: the largest module with no more layers than what follows."""
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
    """Find stages in a model whose resolution never changes: each of the blocks that run one after another.

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


def in_two_layouts(passes: Passes, grid: Grid, stages: Sequence[Stage]) -> str | None:
    """Which maps of traced stages differ in layout, channels first or last; None where all that are no tokens agree."""
    found: dict[str, list[str]] = {}
    outputs = {call.path: call.output for call in passes.evaluated.recording.calls()}
    for stage in stages:
        made = stage.map_in(passes.model, outputs[stage.output])
        result = grid.map_of(made.value)
        found.setdefault(result.layout if result else "", []).append(stage.output)
    if not {"NCHW", "NHWC"} <= {*found}:
        return None
    named = (f"{', '.join(map(repr, found[layout]))} give {layout}" for layout in ("NCHW", "NHWC"))
    return f"they end with maps in two layouts: {' and '.join(named)}"
