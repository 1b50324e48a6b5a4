"""Where the parts of torchvision's models for video are: classifiers, and optical flow. Strides are of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.plugin import Anatomy, Chain, Stage, flatten
from zoo_torchvision.measure import (
    by_resolution,
    channels,
    first_convolution,
    head_at,
    in_sequence,
    resolutions,
    stride,
)
from zoo_torchvision.transformers import class_token

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models.optical_flow import RAFT
    from torchvision.models.video import S3D, MViT, SwinTransformer3d, VideoResNet


_CLIP_DIMENSIONS = 5


def resnet(model: VideoResNet) -> Anatomy:
    """The video classifiers R3D, MC3 and R(2+1)D: four layers after a stem."""
    rows = [("stem", ("stem",)), *((f"layer{number}", (f"layer{number}",)) for number in (1, 2, 3, 4))]
    return Anatomy(
        heads=(head_at(model, "fc"),),
        stem=first_convolution(model),
        stages=in_sequence(model, rows)[1:],
        features=Chain(*(name for name, _ in rows)),
        pool=Chain("avgpool", flatten),
    )


def s3d(model: S3D) -> Anatomy:
    """S3D for video: the head is a convolution on the pooled clip, whose scores are averaged over what is left."""
    return Anatomy(
        heads=(head_at(model, "classifier.1"),),
        stem=first_convolution(model),
        stages=by_resolution(model, "features"),
        features=Chain("features"),
        pool=Chain("avgpool", "classifier.0"),
        classify=Chain("classifier.1", clip_mean),
    )


def swin(model: SwinTransformer3d) -> Anatomy:
    """Video Swin: four stages of blocks, with the channels last from the patches on."""
    (first, paths), *rest = resolutions(model, "features")
    return Anatomy(
        heads=(head_at(model, "head"),),
        stem=first_convolution(model),
        stages=in_sequence(model, [(first, ("patch_embed", *paths)), *rest]),
        features=Chain("patch_embed", "pos_drop", "features", "norm"),
        pool=Chain(channels_second, "avgpool", flatten),
        layout="NHWC",
    )


def mvit(model: MViT) -> Anatomy:
    """The video transformer MViT: blocks of tokens, fewer of them from each block on that pools its queries.

    The output of a block is a pair: the tokens, and how many there are in time, height and width.
    """
    *before, head = (f"head.{name}" for name, _ in model.head.named_children())
    return Anatomy(
        heads=(head_at(model, head),),
        stem=first_convolution(model),
        stages=_mvit_stages(model),
        features=tokens,
        pool=Chain(class_token, *before),
        layout="NLC",
    )


def _mvit_stages(model: MViT) -> tuple[Stage, ...]:
    """The stages of the video transformer MViT: a new one at each block that pools its queries."""
    groups: list[list[str]] = [[]]
    strides = [stride(model.conv_proj)]
    for name, block in model.blocks.named_children():
        if block.pool_skip is not None:
            groups.append([])
            strides.append(strides[-1] * stride(block.pool_skip))
        groups[-1].append(f"blocks.{name}")
    return tuple(
        Stage(f"stage{number}", tuple(paths), channels(model.get_submodule(f"{paths[-1]}.mlp")), total, read=first)
        for number, (paths, total) in enumerate(zip(groups, strides, strict=True), start=1)
    )


def first(_model: MViT, output: tuple[Tensor, object]) -> Tensor:
    """The tokens, of what a block of the video transformer MViT gives."""
    return output[0]


def tokens(model: MViT, x: Tensor) -> Tensor:
    """Video ``[N, 3, T, H, W]`` to the tokens of the last block ``[N, L, C]``, normalized, the class token first."""
    clip = x if x.ndim == _CLIP_DIMENSIONS else x.unsqueeze(2)
    x = model.pos_encoding(model.conv_proj(clip).flatten(2).transpose(1, 2))
    size = (model.pos_encoding.temporal_size, *model.pos_encoding.spatial_size)
    for block in model.blocks:
        x, size = block(x, size)
    normalized: Tensor = model.norm(x)
    return normalized


def clip_mean(x: Tensor) -> Tensor:
    """The mean over a video clip, ``[N, C, T, H, W]`` to ``[N, C]``."""
    return x.mean(dim=(2, 3, 4))


def channels_second(x: Tensor) -> Tensor:
    """Maps of a video ``[N, T, H, W, C]`` to ``[N, C, T, H, W]``."""
    return x.permute(0, 4, 1, 2, 3)


def raft(model: RAFT) -> Anatomy:
    """Optical flow between frames of video, by RAFT: two encoders see them, and no layer gives scores of classes.

    The stages are the first encoder's.
    """
    rows = [(name, (f"feature_encoder.{name}",)) for name in ("convnormrelu", "layer1", "layer2", "layer3")]
    return Anatomy(
        heads=(),
        stem=("feature_encoder.convnormrelu.0", "context_encoder.convnormrelu.0"),
        stages=in_sequence(model, rows)[1:],
        headless=f"{type(model).__name__} gives the motion of every pixel, and no scores of classes",
    )
