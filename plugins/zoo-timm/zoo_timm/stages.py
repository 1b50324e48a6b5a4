"""The stages of a timm model: where its feature maps come out, and which modules make each of them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from zoo_core import Stage
from zoo_timm.stems import stem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Layout = Literal["NCHW", "NHWC", "NLC"]


def stages(model: nn.Module) -> tuple[Stage, ...]:
    """The steps of depth of a timm model, first to last: one for each map that its ``feature_info`` tells of.

    A stage holds all modules that were registered after the one before it, up to the module whose output is its map;
    the stem comes before the first. In a transformer of one width, each block is a stage.

    Args:
        model: A model of timm.

    Returns:
        The stages, with channels and strides; empty for a model whose maps are not declared.

    Example:
        >>> import timm
        >>> [(stage.name, stage.channels, stage.stride) for stage in stages(timm.create_model("resnet18"))]
        [('layer1', 64, 4), ('layer2', 128, 8), ('layer3', 256, 16), ('layer4', 512, 32)]
    """
    maps = _maps(model)
    if not maps:
        return ()
    groups = _groups(model, [path for path, _, _ in maps])
    return tuple(
        Stage(name, group, channels, stride)
        for name, group, (_, channels, stride) in zip(_names(groups), groups, maps, strict=True)
    )


def layout(model: nn.Module) -> Layout:
    """How the maps of a timm model lie: channels first, channels last, or as tokens.

    Args:
        model: A model of timm.
    """
    return "NCHW"


def _maps(model: nn.Module) -> list[tuple[str, int, int]]:
    """Path, channels and stride of each map behind the stem."""
    declared: Any = getattr(model, "feature_info", None) or ()
    modules = dict(model.named_modules())
    maps = [(str(row["module"]), int(row["num_chs"]), int(row["reduction"])) for row in declared]
    return [row for row in maps if row[0] in modules and row[0] and not _in_stem(model, row[0], maps[-1][0])]


def _in_stem(model: nn.Module, path: str, last: str) -> bool:
    """Whether a map belongs to the stem: it comes from the first layer, or from a norm or activation behind it."""
    if path.startswith("stem") or any(f"{first}.".startswith(f"{path}.") for first in stem(model)):
        return True
    is_layer = not list(model.get_submodule(path).children())
    return is_layer and path != last and not path.rpartition(".")[2].isdigit()


def _groups(model: nn.Module, outputs: Sequence[str]) -> list[tuple[str, ...]]:
    """For each output the largest modules that were registered after the output before it, up to itself."""
    order = [path for path, _ in model.named_modules(remove_duplicate=False)]
    position = {path: index for index, path in enumerate(order)}
    ends = {path: index + sum(each.startswith(f"{path}.") for each in order) for path, index in position.items()}
    start = position[_first_sibling(model, outputs[0])]
    groups = []
    for output in outputs:
        groups.append(tuple(_largest(order[start : ends[output] + 1], ends, ends[output])))
        start = ends[output] + 1
    return groups


def _largest(paths: Sequence[str], ends: dict[str, int], last: int) -> Iterator[str]:
    inside = "\n"
    for path in paths:
        if ends[path] <= last and not path.startswith(f"{inside}."):
            inside = path
            yield path


def _first_sibling(model: nn.Module, path: str) -> str:
    """The first module of the sequence that a module is in; the module itself when it is in none."""
    parent, _, name = path.rpartition(".")
    if not name.isdigit():
        return path
    first = next(iter(model.get_submodule(parent).named_children()))[0]
    return f"{parent}.{first}"


def _names(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of stages: of the one module that each has of a kind, or ``"stage1"`` and so on."""
    kinds = Counter(_kind(path) for group in groups for path in group)
    main = kinds.most_common(1)[0][0]
    found = [[path for path in group if _kind(path) == main] for group in groups]
    if any(len(paths) != 1 for paths in found):
        return [f"stage{number}" for number in range(1, len(groups) + 1)]
    return [_name(path, number) for number, (path,) in enumerate(found, 1)]


def _kind(path: str) -> str:
    return re.sub(r"\d+", "#", path)


def _name(path: str, number: int) -> str:
    parent, _, name = path.rpartition(".")
    return f"{parent.rpartition('.')[2].removesuffix('s')}{number}" if name.isdigit() else name
