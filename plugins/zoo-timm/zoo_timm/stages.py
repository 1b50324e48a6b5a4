"""The stages of a timm model: where its feature maps come out, and which modules make each of them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from zoo_core.plugin import Stage
from zoo_timm.stages_by_class import DECLARED_AT, LAYOUTS, OUT_OF_ORDER, READS, STAGE_NAMES, row_for_class
from zoo_timm.stems import stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zoo_timm.stages_by_class import Layout


class _Map(NamedTuple):
    """A feature map that a stage gives: the module it comes from, and its size."""

    path: str
    channels: int
    stride: int


def stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a timm model, by depth: one for each map that its ``feature_info`` declares.

    A stage holds all modules that were registered after the one before it, up to the module whose output is its map;
    the stem comes before the first. In a transformer of one width each block is a stage. What the library declares is
    put right where it is not so: maps of the stem and of the inside of a block, paths that are none, and the trunks
    whose modules run in another order than they were registered in.

    Args:
        model: A model of timm.

    Returns:
        The stages, with channels and strides; empty for a model that declares no maps.

    Example:
        >>> import timm
        >>> [(stage.name, stage.channels, stage.stride) for stage in stages(timm.create_model("resnet18"))]
        [('layer1', 64, 4), ('layer2', 128, 8), ('layer3', 256, 16), ('layer4', 512, 32)]
    """
    rows = row_for_class(model, OUT_OF_ORDER)
    if rows is not None:
        return tuple(rows(model))
    maps = _maps(model)
    if not maps:
        return ()
    groups = _stage_groups(model, [each.path for each in maps])
    if not any(True for path in groups[-1] for _ in model.get_submodule(path).parameters()):
        # A pool after the last convolution belongs to the stage that it ends.
        last = groups.pop()
        groups[-1] += last
        del maps[-2]
    names = row_for_class(model, STAGE_NAMES) or _names(groups)
    reads = row_for_class(model, READS)
    return tuple(
        Stage(name, group, each.channels, each.stride, read=reads(each.path) if reads else None)
        for name, group, each in zip(names, groups, maps, strict=True)
    )


def layout(model: nn.Module) -> Layout:
    """How the maps of a timm model's stages are laid out: ``"NCHW"``, ``"NHWC"`` or tokens, ``"NLC"``.

    Args:
        model: A model of timm.

    Example:
        >>> import timm
        >>> layout(timm.create_model("test_vit"))
        'NLC'
    """
    if getattr(model, "use_conv", False):  # LeViT does without tokens, where it is built so
        return "NCHW"
    return row_for_class(model, LAYOUTS) or "NCHW"


def _maps(model: nn.Module) -> list[_Map]:
    """The maps that end the stages after the stem, by modules that are blocks of the trunk, not their inside."""
    declared: Any = getattr(model, "feature_info", None) or ()
    at = row_for_class(model, DECLARED_AT) or ("", "")
    rows = [_Map(re.sub(*at, row["module"]), int(row["num_chs"]), int(row["reduction"])) for row in declared]
    first = stem(model)
    whole = (_of_whole_block(model, row, first) for row in rows if not _is_in_stem(model, row.path, first))
    # CrossViT declares each of its blocks twice, once for each of the two sizes it looks at the image in.
    return list({each.path: each for each in reversed([row for row in whole if row])}.values())[::-1]


def _is_in_stem(model: nn.Module, path: str, first: Iterable[str]) -> bool:
    """Whether a map in timm's ``feature_info`` ends no stage, because it belongs to the stem or to no module at all.

    It does when the module holds the first layers, or is a norm or an activation with a name of its own, such as
    ``act1``. VGG's maps are activations too, but numbered.
    """
    if not path or path.partition(".")[0] == "stem" or any(under(layer, path) for layer in first):
        return True
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return True
    weighs = any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules())
    return not weighs and bool(re.fullmatch(r"(.*\.)?(act|bn|norm)[0-2]", path))


def _of_whole_block(model: nn.Module, row: _Map, first: Sequence[str]) -> _Map | None:
    """The map that ends a stage: that of the block before, for one declared inside a block; else as it is.

    Inside a block it is what the first activation makes of the output of the block before, or what precedes its stride.
    """
    names = row.path.split(".")
    for depth in range(1, len(names)):
        path = ".".join(names[:depth])
        block = model.get_submodule(path)
        if isinstance(block, nn.Sequential | nn.ModuleList) or any(under(layer, path) for layer in first):
            continue
        parent, _, name = path.rpartition(".")
        siblings = [each for each, _ in model.get_submodule(parent).named_children()]
        if siblings.index(name) == 0:
            return None
        before = f"{parent}.{siblings[siblings.index(name) - 1]}".lstrip(".")
        return _Map(before, int(getattr(model.get_submodule(before), "out_channels", row.channels)), row.stride)
    return row


def under(path: str, other: str) -> bool:
    """Whether a module of a stage is inside another one, or is that one."""
    return path == other or path.startswith(f"{other}.")


def _stage_groups(model: nn.Module, outputs: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of timm modules, one a stage: the largest registered after the output before it, up to its own."""
    order = [path for path, _ in model.named_modules(remove_duplicate=False)]
    last_inside: dict[str, int] = {}
    for index, path in enumerate(order):
        for end in [match.start() for match in re.finditer(r"\.", path)] + [len(path)]:
            last_inside[path[:end]] = index
    start = order.index(_first_sibling(model, outputs[0]))
    groups = []
    for output in outputs:
        end = last_inside[output]
        groups.append(tuple(_largest_before(order[start : end + 1], last_inside, end)))
        start = end + 1
    return groups


def _largest_before(paths: Iterable[str], last_inside: dict[str, int], end: int) -> Iterator[str]:
    """The largest of the modules that end before a stage does."""
    taken = None
    for path in paths:
        if last_inside[path] <= end and not (taken and under(path, taken)):
            taken = path
            yield path


def _first_sibling(model: nn.Module, path: str) -> str:
    """Where the first stage of a timm model starts: at the first of the sequence that a module is in, or at itself.

    A sequence is either numbered, or named alike up to the first digit, as ``conv1_1``, ``conv2_1`` and so on.
    """
    parent, _, name = path.rpartition(".")
    siblings = [each for each, _ in model.get_submodule(parent).named_children()]
    alike = [each for each in siblings if re.search(r"\d", each) and _name_start(each) == _name_start(name)]
    return f"{parent}.{next(iter(alike), name)}".lstrip(".")


def _name_start(name: str) -> str:
    """The name of a timm module up to its first digit, in which the modules of a sequence of stages are alike."""
    return re.split(r"\d", name, maxsplit=1)[0]


def _names(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of stages: of the one module that each has of a kind, or ``"stage1"`` and so on."""
    kinds = Counter(_kind(path) for group in groups for path in group)
    main = kinds.most_common(1)[0][0]
    result = [[path for path in group if _kind(path) == main] for group in groups]
    if any(len(paths) != 1 for paths in result):
        return [f"stage{number}" for number in range(1, len(groups) + 1)]
    return [_stage_name(path, number) for number, (path,) in enumerate(result, 1)]


def _kind(path: str) -> str:
    """The path of a module in a stage of timm's with its numbers replaced, alike for modules of one kind."""
    return re.sub(r"\d+", "#", path)


def _stage_name(path: str, number: int) -> str:
    """Name of a stage: that of its main module, or of the list that the module is numbered in."""
    parent, _, name = path.rpartition(".")
    return f"{parent.rpartition('.')[2].removesuffix('s')}{number}" if name.isdigit() else name
