"""The part of a model that turns pictures into feature maps of several sizes, as segmentation and detection need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.cut import absent, whole_forward
from zoo_core.surgery.dilate import dilated
from zoo_core.surgery.knowledge import anatomy_of, unwrap
from zoo_core.surgery.split import replaced
from zoo_core.surgery.taps import asked_names, run_to_tap, stage_index, taken, tapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.parts import Stage


class Encoder(nn.Module):
    """Pictures to feature maps, large to small; made by :func:`zoo_core.encoder`.

    It is a class of its own, because it returns a list. It shares its parameters with the model it was made from, and
    holds nothing behind the last stage it returns, so that DDP finds no parameter unused.

    Attributes:
        body: The model's front, of the library's own class.
        names: Names of the stages.
        channels: Channels of each map.
        strides: Pixels of the picture for one step of each map.
    """

    _zoo_way_back = (
        "do it to the model that zoo.encoder(model) is given: the two share their parameters, "
        "and zoo.encoder(name, freeze=...) freezes on the way"
    )

    def __init__(self, model: nn.Module, at: Sequence[str] | None = None, output_stride: int | None = None) -> None:
        super().__init__()
        anatomy, bare = anatomy_of(model), unwrap(model)
        if not anatomy.stages:
            raise NotSupported(
                f"this {type(bare).__name__} has no stages to take feature maps from",
                hint="models whose zoo.anatomy(model).stages is not empty can",
            )
        if anatomy.features is None and any(site.role in {"box", "mask", "level"} for site in anatomy.heads):
            raise NotSupported(
                f"this {type(bare).__name__} cannot be an encoder",
                cause="a detector resizes its pictures itself, so that the strides would be those of other pictures",
                hint='zoo.encoder("resnet50") and other classifiers can; zoo.features(model, x) works on any model',
            )
        convolutions = {} if output_stride is None else dilated(model, output_stride)
        most = output_stride or max(stage.stride for stage in anatomy.stages)
        chosen = _chosen(model, at)
        last = max(stage_index(model, stage.name) for stage in chosen) + 1
        body = replaced(replaced(bare, convolutions), absent(model, lambda depth: depth > last))
        self.body = tapped(body, {stage.output for stage in chosen}, last=anatomy.stages[last - 1].output)
        self.names = tuple(stage.name for stage in chosen)
        self.channels = tuple(stage.channels for stage in chosen)
        self.strides = tuple(min(stage.stride, most) for stage in chosen)
        self._paths = [stage.output for stage in chosen]
        self._run, self._layout = anatomy.features or whole_forward, anatomy.layout
        self.training = bare.training

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, C, H, W]`` to maps of ``[N, channels[i], H / strides[i], W / strides[i]]``."""
        run_to_tap(self._run, self.body, x)
        found = taken(self.body, self._paths)
        return [_as_map(each, x, self._layout, stride) for each, stride in zip(found, self.strides, strict=True)]

    def extra_repr(self) -> str:
        """What ``print`` shows above the body."""
        return f"names={self.names}, channels={self.channels}, strides={self.strides}"


def _chosen(model: nn.Module, at: Sequence[str] | None) -> list[Stage]:
    """The stages that were asked for, or the last one of each stride that the model has when it is not dilated."""
    stages = anatomy_of(model).stages
    if at is None:
        return list({stage.stride: stage for stage in stages}.values())
    return [stages[stage_index(model, name)] for name in asked_names(at)]


def _as_map(found: Tensor, x: Tensor, layout: str, stride: int) -> Tensor:
    """What a stage gives, with the channels first."""
    if layout == "NHWC":
        return torch.movedim(found, -1, 1)
    if layout == "NLC":
        height, width = x.shape[-2] // stride, x.shape[-1] // stride
        places = found[:, found.shape[1] - height * width :]  # class and register tokens come first
        return places.transpose(1, 2).reshape(x.shape[0], -1, height, width)
    return found
