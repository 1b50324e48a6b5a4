"""Where the parts of torchvision's transformers for images are: one short function an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo_core.plugin import Anatomy, Chain, Stage
from zoo_torchvision.measure import by_resolution, first_convolution, head_at, in_sequence, stride

if TYPE_CHECKING:
    from torchvision.models import MaxVit, SwinTransformer, VisionTransformer


def vision_transformer(model: VisionTransformer) -> Anatomy:
    """The transformer ViT: every layer of the encoder is a stage of its own, all of one width and stride."""
    *before, head = (f"heads.{name}" for name, _ in model.heads.named_children())
    layers = (name for name, _ in model.encoder.layers.named_children())
    step = stride(model.conv_proj)
    return Anatomy(
        heads=(head_at(model, head),),
        stem=first_convolution(model),
        stages=tuple(Stage(name, (f"encoder.layers.{name}",), model.hidden_dim, step) for name in layers),
        features=tokens,
        pool=Chain(class_token, *before),
        layout="NLC",
    )


def swin(model: SwinTransformer) -> Anatomy:
    """The transformers Swin and Swin v2 for images: four stages of blocks, channels last from the patches on."""
    return Anatomy(
        heads=(head_at(model, "head"),),
        stem=first_convolution(model),
        stages=by_resolution(model, "features"),
        features=Chain("features", "norm"),
        pool=Chain("permute", "avgpool", "flatten"),
        layout="NHWC",
    )


def maxvit(model: MaxVit) -> Anatomy:
    """The transformer MaxViT: blocks of convolutions and attention; two of the classifier's layers precede the head."""
    *before, head = (f"classifier.{name}" for name, _ in model.classifier.named_children())
    blocks = tuple(f"blocks.{name}" for name, _ in model.blocks.named_children())
    named = ((f"block{number}", (path,)) for number, path in enumerate(blocks, start=1))
    return Anatomy(
        heads=(head_at(model, head),),
        stem=first_convolution(model),
        stages=in_sequence(model, (("stem", ("stem",)), *named))[1:],
        features=Chain("stem", *blocks),
        pool=Chain(*before),
    )


def tokens(model: VisionTransformer, x: Tensor) -> Tensor:
    """``[N, 3, H, W]`` to the tokens ``[N, L, C]`` of a transformer for images, ViT, the class token first."""
    x = model._process_input(x)  # noqa: SLF001 - the split does what the library's forward does
    x = torch.cat([model.class_token.expand(x.shape[0], -1, -1), x], dim=1)
    encoded: Tensor = model.encoder(x)
    return encoded


def class_token(x: Tensor) -> Tensor:
    """``[N, L, C]`` to ``[N, C]``: the class token of a transformer, the first of its tokens."""
    return x[:, 0]
