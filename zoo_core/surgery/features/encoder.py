"""The part of a model that turns pictures into feature maps of several sizes, as segmentation and detection need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.cut import absent, whole_forward
from zoo_core.surgery.features.dilate import dilated
from zoo_core.surgery.features.encoder_outputs import places
from zoo_core.surgery.features.split import replaced
from zoo_core.surgery.features.tap import recorded, tapped
from zoo_core.surgery.metadata import anatomy_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN_AXES = 3


class Encoder(nn.Module):
    """Pictures to feature maps, large to small; made by :func:`zoo_core.encoder`.

    It is a class of its own, because it returns a list. It shares its parameters with the model it was made from, and
    holds nothing behind the last stage it needs, so that DDP finds no parameter unused.

    Attributes:
        body: The model's front, of the library's own class.
        names: Names of the stages, or paths of the modules, that give the maps.
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
        twin = replaced(bare, convolutions)
        chosen = places(bare, twin, at, most)
        deepest = max(place.depth for place in chosen)
        body = replaced(twin, absent(model, lambda depth: depth > deepest))
        self.body = tapped(body, {place.path for place in chosen})
        self.names = tuple(place.name for place in chosen)
        self.channels = tuple(place.channels for place in chosen)
        self.strides = tuple(place.stride for place in chosen)
        self._paths = [place.path for place in chosen]
        self._reads = [place.read for place in chosen]
        self._run, self._layout = anatomy.features or whole_forward, anatomy.layout
        self.training = bare.training

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, C, H, W]`` to maps of ``[N, channels[i], H / strides[i], W / strides[i]]``."""
        _, outputs = recorded(self._run, self.body, x, self._paths)
        found = [read(self.body, each) if read else each for read, each in zip(self._reads, outputs, strict=True)]
        return [as_map(each, x, self._layout, stride) for each, stride in zip(found, self.strides, strict=True)]

    def extra_repr(self) -> str:
        """What ``print`` shows above the body."""
        return f"names={self.names}, channels={self.channels}, strides={self.strides}"


def as_map(found: Tensor, x: Tensor, layout: str, stride: int) -> Tensor:
    """What a stage gives, with the channels first."""
    if found.dim() == _TOKEN_AXES:
        height, width = _grid(x, stride, found.shape[1])
        places = found[:, found.shape[1] - height * width :]  # class and register tokens come first
        return places.transpose(1, 2).reshape(x.shape[0], -1, height, width)
    return torch.movedim(found, -1, 1) if layout == "NHWC" else found


def _grid(x: Tensor, stride: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of the tokens: rounded up where a model pads its pictures, and down where it cuts them."""
    height, width = (-(-side // stride) for side in x.shape[-2:])
    return (height, width) if height * width <= tokens else (x.shape[-2] // stride, x.shape[-1] // stride)
