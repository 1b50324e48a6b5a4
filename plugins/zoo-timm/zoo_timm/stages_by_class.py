"""Trunks that the rules for stages do not fit: each row with its reason."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import nn

from zoo_core.plugin import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    """Row for the class of a model, or its nearest base, in a table of stages or heads by class.

    Tables are keyed by names, because an older timm lacks some of the classes.
    """
    return next((table[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in table), None)


def first(_model: nn.Module, output: Any) -> Any:
    """The map of a trunk's block that gives several things: its map, and what else the next block needs."""
    return output[0] if isinstance(output, tuple | list) else output


def second(_model: nn.Module, output: Any) -> Any:
    """The tokens of the patches, of a block of TNT's trunk that gives those of the pixels first."""
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
    """The trunk of CoaT: four scales that run one after another, then blocks in which the last three of them meet.

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
    """The trunk of Twins: patches and position encoding of all stages were registered apart from the blocks."""
    for index, (row, blocks) in enumerate(zip(model.feature_info, model.blocks, strict=True)):
        start, *rest = (f"blocks.{index}.{name}" for name, _ in blocks.named_children())
        patches = (f"patch_embeds.{index}",) if index else ()
        modules = (*patches, start, f"pos_block.{index}", *rest)
        yield Stage(f"stage{index + 1}", modules, row["num_chs"], row["reduction"])


def hrnet(model: Any) -> Iterator[Stage]:
    """The trunk of HRNet: stages that each give maps of several scales, the largest first; then each scale by itself.

    What the library calls stages in feature_info are these scales.
    """
    widths = {path: model.get_submodule(path)[-1].get_num_in_chs()[0] for path in ("stage2", "stage3", "stage4")}
    layer1 = max(layer.out_channels for layer in model.layer1[-1].modules() if isinstance(layer, nn.Conv2d))
    _, largest, *_ = (row["reduction"] for row in model.feature_info)
    yield Stage("layer1", ("layer1",), layer1, largest)
    for number, (name, width) in enumerate(widths.items(), 1):
        yield Stage(name, (f"transition{number}", name), width, largest, read=first)
    for index in range(len(model.incre_modules or ())):
        down = (f"downsamp_modules.{index - 2}",) if index >= 2 and model.downsamp_modules is not None else ()  # noqa: PLR2004
        row = model.feature_info[index + 1]
        yield Stage(f"scale{index + 1}", (*down, f"incre_modules.{index}"), row["num_chs"], row["reduction"])


OUT_OF_ORDER: Mapping[str, Callable[[Any], Iterator[Stage]]] = {
    # Their modules do not run in the order in which they were registered.
    "CoaT": coat,
    "HighResolutionNet": hrnet,
    "Twins": twins,
}
