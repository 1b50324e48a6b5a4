"""The part of a model that turns pictures into feature maps of several sizes, as segmentation and detection need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.cut import absent
from zoo_core.surgery.features.dilate import dilated
from zoo_core.surgery.features.encoder_outputs import places
from zoo_core.surgery.features.extract import recorded, tapped
from zoo_core.surgery.features.forward import entered, without_hooks
from zoo_core.surgery.features.split import replaced
from zoo_core.surgery.metadata import anatomy_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN_AXES = 3
_VIDEO_AXES = 5
"""Images, channels, time, rows and columns."""
_MOST_TOKENS_OF_THE_WHOLE = 16
"""Class, distillation and register tokens; models have up to nine."""


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
        self._run, self._layout = anatomy.features or without_hooks, anatomy.layout
        self.training = bare.training

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, C, H, W]`` to maps of ``[N, channels[i], H / strides[i], W / strides[i]]``."""
        _, outputs = recorded(self._run, self.body, entered(self.body, x), self._paths)
        found = [read(self.body, each) if read else each for read, each in zip(self._reads, outputs, strict=True)]
        return [as_map(each, x, self._layout, stride) for each, stride in zip(found, self.strides, strict=True)]

    def extra_repr(self) -> str:
        """What ``print`` shows above the body."""
        return f"names={self.names}, channels={self.channels}, strides={self.strides}"


def as_map(found: Tensor, x: Tensor, layout: str, stride: int) -> Tensor:
    """What a stage gives, with the channels first: ``[N, C, H, W]``, or ``[N, C, T, H, W]`` of a video.

    Args:
        found: What it gave.
        x: What the model was given.
        layout: Of what it gave.
        stride: Pixels of ``x`` between neighbouring places.

    Raises:
        NotSupported: Tokens are not a few that stand for the whole and then one for each place.
    """
    if found.dim() != _TOKEN_AXES:
        return torch.movedim(found, -1, 1) if layout == "NHWC" else found
    height, width = _grid(x, stride, found.shape[1])
    time = _time(x, found.shape[1] // max(1, height * width))
    first = found.shape[1] - time * height * width  # class and register tokens come first
    if not height * width or not 0 <= first <= _MOST_TOKENS_OF_THE_WHOLE:
        raise NotSupported(
            f"{found.shape[1]} tokens are no map of an input of {'x'.join(map(str, x.shape[2:]))} at stride {stride}",
            expected=f"{height} x {width} places, after at most {_MOST_TOKENS_OF_THE_WHOLE} tokens of the whole",
            hint="zoo.features(model, x, at=[...]) gives the tokens as they are",
        )
    grid = (time, height, width) if x.dim() == _VIDEO_AXES else (height, width)
    return found[:, first:].transpose(1, 2).reshape(x.shape[0], -1, *grid)


def _time(x: Tensor, most: int) -> int:
    """Steps of time in the tokens of a video, which divide those of the input; 1 for an image."""
    if x.dim() != _VIDEO_AXES:
        return 1
    return next((steps for steps in range(min(most, x.shape[2]), 0, -1) if x.shape[2] % steps == 0), 1)


def _grid(x: Tensor, stride: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of the tokens: rounded up where a model pads its images, and down where it cuts them."""
    height, width = (-(-side // stride) for side in x.shape[-2:])
    return (height, width) if height * width <= tokens else (x.shape[-2] // stride, x.shape[-1] // stride)
