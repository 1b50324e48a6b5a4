"""The stages of a timm model: where its feature maps come out, which modules make each, and where no rule fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from torch import nn

from zoo_core.plugin import Stage
from zoo_timm.stems import stem

Layout = Literal["NCHW", "NHWC", "NLC"]
Value = TypeVar("Value")

DECLARED_AT: Mapping[str, tuple[str, str]] = {
    # A pattern and what it has to be, to make of a path in feature_info one of a module.
    "MultiScaleVit": (r"^block\.", "stages."),
    "Gemma4VitClassifier": (r"^blocks\.", "encoder.blocks."),
}

STAGE_NAMES: Mapping[str, tuple[str, ...]] = {
    # As in torchvision; its modules are named one by one, so that no kind repeats.
    "InceptionV3": ("Conv2d_2", "Conv2d_4", "Mixed_5", "Mixed_6", "Mixed_7"),
}

LAYOUTS: Mapping[str, Layout] = {
    # Windows or shifts along an axis, or mixers that work on the last axis.
    **dict.fromkeys(("HieraDet", "MambaOut", "Sequencer2d", "SwinTransformer", "SwinTransformerV2"), "NHWC"),
    **dict.fromkeys(("VOLO", "VisionTransformerSAM"), "NHWC"),
    "Hiera": "NHWC",  # as its stages are read
    # Transformers of one width.
    **dict.fromkeys(("Beit", "Cait", "ConVit", "CrossVit", "DeepseekVitEncoder", "Eva", "Gemma4VitClassifier"), "NLC"),
    **dict.fromkeys(("Gemma4VitEncoder", "MlpMixer", "NaFlexVit", "Qwen3VitClassifier", "Qwen3VitEncoder"), "NLC"),
    **dict.fromkeys(("TNT", "VisionTransformer", "VisionTransformerRelPos", "Xcit"), "NLC"),
    # Transformers whose stages pass tokens on.
    **dict.fromkeys(("CoaT", "Levit", "MultiScaleVit", "Twins"), "NLC"),
}


def row_for_class(model: nn.Module, table: Mapping[str, Value]) -> Value | None:
    """Row for the class of a timm model, or its nearest base, in a table of stages or heads by class.

    Tables are keyed by names, because an older timm lacks some of the classes.
    """
    return next((table[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in table), None)


def first(_model: nn.Module, output: Any) -> Any:
    """The map of a timm stage whose last block gives several things: its map, and what else the next block needs."""
    return output[0] if isinstance(output, tuple | list) else output


def second(_model: nn.Module, output: Any) -> Any:
    """The tokens of the patches that a stage of timm's TNT ends with: its block gives those of the pixels first."""
    return output[1]


def rerolled(block: int, model: nn.Module, output: Any) -> Any:
    """Hiera's trunk: ``[N, L, C]`` in the order of its mask units to ``[N, H, W, C]``."""
    return model.get_submodule("reroll")(output, block_idx=block)


READS: Mapping[str, Callable[[str], Callable[[Any, Any], Any]]] = {
    # The map or the tokens, and the class token, the size, the skip connection or the other branch beside them.
    **dict.fromkeys(
        ("CrossVit", "EfficientViM", "MultiScaleVit", "PoolingVisionTransformer", "SelecSls"), lambda _path: first
    ),
    "TNT": lambda _path: second,
    "Hiera": lambda path: partial(rerolled, int(path.rpartition(".")[2])),
}
"""Class to path of a stage's last module to how its map is read."""


def coat(model: Any) -> Iterator[Stage]:
    """The stages of timm's CoaT: four scales, one after another, then blocks in which the last three meet.

    What each scale has of its own was registered in the order of the kinds of modules; its blocks share two of them.
    """
    for number, width in enumerate(model.embed_dims, 1):
        own = (f"patch_embed{number}", f"cpe{number}", f"crpe{number}")
        blocks = (
            f"serial_blocks{number}.{name}" for name, _ in getattr(model, f"serial_blocks{number}").named_children()
        )
        stride = model.patch_embed1.patch_size[0] * 2 ** (number - 1)
        yield Stage(f"serial{number}", (*own[number == 1 :], *blocks), width, stride)
    if model.parallel_blocks is not None:
        blocks = (f"parallel_blocks.{name}" for name, _ in model.parallel_blocks.named_children())
        # Each block gives all scales at once; the norm after them is the first to give the last scale alone.
        yield Stage("parallel", (*blocks, "norm2", "norm3", "norm4"), width, stride)


def twins(model: Any) -> Iterator[Stage]:
    """The stages of timm's Twins: patches and position encoding of all were registered apart from the blocks."""
    for index, (row, blocks) in enumerate(zip(model.feature_info, model.blocks, strict=True)):
        start, *rest = (f"blocks.{index}.{name}" for name, _ in blocks.named_children())
        patches = (f"patch_embeds.{index}",) if index else ()
        modules = (*patches, start, f"pos_block.{index}", *rest)
        yield Stage(f"stage{index + 1}", modules, row["num_chs"], row["reduction"])


def hrnet(model: Any) -> Iterator[Stage]:
    """The stages of timm's HRNet: those that give maps of several scales, the largest first; then each scale by itself.

    What the library calls stages in feature_info are these scales.
    """
    widths = {path: model.get_submodule(path)[-1].get_num_in_chs()[0] for path in ("stage2", "stage3", "stage4")}
    layer1 = max(layer.out_channels for layer in model.layer1[-1].modules() if isinstance(layer, nn.Conv2d))
    _, largest, *_ = (row["reduction"] for row in model.feature_info)
    yield Stage("layer1", ("layer1",), layer1, largest)
    for number, (name, width) in enumerate(widths.items(), 1):
        yield Stage(name, (f"transition{number}", name), width, largest, read=first)
    for index in range(len(model.incre_modules or ())):
        # the first is made smaller and added to the second after that was read
        down = (f"downsamp_modules.{index - 2}",) if index > 1 and model.downsamp_modules is not None else ()
        row = model.feature_info[index + 1]
        yield Stage(f"scale{index + 1}", (*down, f"incre_modules.{index}"), row["num_chs"], row["reduction"])


OUT_OF_ORDER: Mapping[str, Callable[[Any], Iterator[Stage]]] = {
    # Their modules do not run in the order in which they were registered.
    "CoaT": coat,
    "HighResolutionNet": hrnet,
    "Twins": twins,
}


class _StageMap(NamedTuple):
    """A feature map that a stage of a timm model gives: the module it comes from, its channels and its stride."""

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
    maps = _stage_maps(model)
    if not maps:
        return ()
    groups = _stage_groups(model, [each.path for each in maps])
    if not any(True for path in groups[-1] for _ in model.get_submodule(path).parameters()):
        # A pool after the last convolution belongs to the stage that it ends.
        last = groups.pop()
        groups[-1] += last
        del maps[-2]
    names = row_for_class(model, STAGE_NAMES) or _stage_names(groups)
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


def _stage_maps(model: nn.Module) -> list[_StageMap]:
    """The maps that end the stages of a timm model after its stem, by modules that are blocks, not their inside."""
    declared: Any = getattr(model, "feature_info", None) or ()
    at = row_for_class(model, DECLARED_AT) or ("", "")
    rows = [_StageMap(re.sub(*at, row["module"]), int(row["num_chs"]), int(row["reduction"])) for row in declared]
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


def _of_whole_block(model: nn.Module, row: _StageMap, first: Sequence[str]) -> _StageMap | None:
    """The map that ends a timm model's stage: of the block before, for one declared inside a block; else as it is.

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
        return _StageMap(before, int(getattr(model.get_submodule(before), "out_channels", row.channels)), row.stride)
    return row


def under(path: str, other: str) -> bool:
    """Whether a module in a stage of a timm model is inside another one, or is that one."""
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
    """The largest of a timm model's modules that end no later than a stage does."""
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


def _stage_names(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of the stages of a timm model: of the one module that each has of a kind, or ``"stage1"`` and so on."""
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
    """Name of a stage of a timm model: that of its main module, or of the list that the module is numbered in."""
    parent, _, name = path.rpartition(".")
    return f"{parent.rpartition('.')[2].removesuffix('s')}{number}" if name.isdigit() else name
