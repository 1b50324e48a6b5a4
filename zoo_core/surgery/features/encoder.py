"""The part of a model that turns images into feature maps of several sizes, as segmentation and detection need it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.cut import absent
from zoo_core.surgery.features.dilate import dilated
from zoo_core.surgery.features.encoder_outputs import places, pyramid
from zoo_core.surgery.features.extract import AtStage, recorded, tapped
from zoo_core.surgery.features.forward import entered, own_hooks, without_hooks
from zoo_core.surgery.features.split import replaced
from zoo_core.surgery.features.truncate import only_front
from zoo_core.surgery.hold import held_paths
from zoo_core.surgery.metadata import anatomy_of, attach, knowledge_of, record_edit, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.surgery.features.encoder_outputs import Place

_TOKEN_AXES = 3
_VIDEO_AXES = 5
"""Images, channels, time, rows and columns."""
_MOST_TOKENS_OF_THE_WHOLE = 16
"""Class, distillation and register tokens; models have up to nine."""


class Encoder(nn.Module):
    """Images to feature maps, large to small; made by :func:`zoo_core.encoder`.

    It is a class of its own, because it returns a list. It shares its parameters with the model it was made from, and
    holds nothing after the last stage it needs, so that DDP finds no parameter unused. All verbs that need no head
    take it: they see the body, whose tensors have the names that they have in the model.

    Attributes:
        body: The model's front: its class is a subclass of the library's, of the same name.
        names: Names of the stages, or paths of the modules, that give the maps.
        channels: Channels of each map.
        strides: Pixels of the image for one step of each map.
        depth: How many maps there are, without the image itself.
    """

    def __init__(
        self,
        model: nn.Module,
        at: Sequence[str] | None = None,
        output_stride: int | None = None,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        anatomy, bare = anatomy_of(model), unwrap(model)
        _check(bare, anatomy)
        convolutions = {} if output_stride is None else dilated(model, output_stride)
        most = output_stride or max(stage.stride for stage in anatomy.stages)
        twin = replaced(bare, convolutions)
        chosen = places(bare, twin, at, most) if depth is None else pyramid(bare, twin, depth, most)
        deepest = max(place.depth for place in chosen)
        run = anatomy.features or without_hooks
        self.body = _body(bare, twin, chosen, deepest, run)
        record_edit(self.body, "encoder", at=at, output_stride=output_stride, depth=depth)
        self.names = tuple(place.name for place in chosen)
        self.channels = tuple(place.channels for place in chosen)
        self.strides = tuple(place.stride for place in chosen)
        self.depth = len(chosen) - (depth is not None)
        self._places, self._run, self._layout = chosen, run, anatomy.layout
        card = knowledge_of(bare).card
        self._native = tuple(card.input_size[1:]) if card else ()
        self.training = bare.training

    @property
    def out_channels(self) -> list[int]:
        """Channels of each map, by the name that decoders of other libraries ask for."""
        return list(self.channels)

    @property
    def output_stride(self) -> int:
        """Pixels of the image for one step of the smallest map."""
        return max(self.strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, C, H, W]`` to maps of ``[N, channels[i], H / strides[i], W / strides[i]]``."""
        paths = [place.path for place in self._places if place.path]
        _, outputs = recorded(self._run, self.body, entered(self.body, x), paths)
        result = dict(zip(paths, outputs, strict=True))
        return [self._map(place, result, x) for place in self._places]

    def _map(self, place: Place, found: dict[str, Tensor], x: Tensor) -> Tensor:
        if place.stride == 1 and not place.path:
            return x
        if not place.path:
            return no_map(x, place.stride)
        output = found[place.path] if place.read is None else place.read(self.body, found[place.path])
        return as_map(output, x, self._layout, place.stride, self._native)

    def extra_repr(self) -> str:
        """What ``print`` shows above the body."""
        return f"names={self.names}, channels={self.channels}, strides={self.strides}"


def _check(model: nn.Module, anatomy: Anatomy) -> None:
    if not anatomy.stages:
        raise NotSupported(
            f"this {type(model).__name__} has no stages to take feature maps from",
            hint="models whose zoo.anatomy(model).stages is not empty can",
        )
    if anatomy.features is None and any(site.role in {"box", "mask", "level"} for site in anatomy.heads):
        raise NotSupported(
            f"this {type(model).__name__} cannot be an encoder",
            cause="a detector resizes its images itself, so that the strides would be those of other images",
            hint='zoo.encoder("resnet50") and other classifiers can; zoo.features(model, x) works on any model',
        )


def _body(
    model: nn.Module, twin: nn.Module, chosen: list[Place], deepest: int, run: Callable[[Any, Any], Any]
) -> nn.Module:
    """A tapped twin of the model without what is deeper than the maps, which knows that it is that."""
    body = replaced(twin, absent(model, lambda depth: depth > deepest))
    body = tapped(body, {place.path for place in chosen if place.path})
    last = max((place for place in chosen if place.path), key=lambda place: place.order)
    own_hooks(body, before=False)
    kept = min(deepest, len(anatomy_of(model).stages))
    only_front(model, body, kept, AtStage(last.path, run), "it is an encoder, and the model has the head")
    known = knowledge_of(body)
    strides = {place.path: place.stride for place in chosen}
    stages = tuple(replace(each, stride=strides.get(each.output, each.stride)) for each in known.anatomy.stages)
    attach(body, replace(known, anatomy=replace(known.anatomy, stages=stages), held=held_paths(body)))
    return body


def no_map(x: Tensor, stride: int) -> Tensor:
    """A map without channels, as segmentation_models_pytorch fills the strides that a model does not have.

    Args:
        x: What the model was given.
        stride: Pixels of ``x`` between neighbouring places.
    """
    return x.new_zeros(x.shape[0], 0, *(side // stride for side in x.shape[2:]))


def as_map(found: Tensor, x: Tensor, layout: str, stride: int, native: tuple[int, ...] = ()) -> Tensor:
    """What a stage gives, with the channels first: ``[N, C, H, W]``, or ``[N, C, T, H, W]`` of a video.

    Args:
        found: What it gave.
        x: What the model was given.
        layout: Of what it gave.
        stride: Pixels of ``x`` between neighbouring places.
        native: Height and width that the model was designed for, for the error.

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
            cause="the model resizes its images, or cuts them into windows" if x.shape[2:] != native else None,
            hint=f"images of {'x'.join(map(str, native))} give maps; zoo.features(model, x, at=[...]) gives the tokens"
            if native and x.shape[2:] != native
            else "zoo.features(model, x, at=[...]) gives the tokens as they are",
        )
    grid = (time, height, width) if x.dim() == _VIDEO_AXES else (height, width)
    return found[:, first:].transpose(1, 2).reshape(x.shape[0], -1, *grid)


for _function in ("as_map", "no_map"):  # FX keeps them as calls: what they do depends on shapes
    torch.fx.wrap(_function)


def _time(x: Tensor, most: int) -> int:
    """Steps of time in the tokens of a video, which divide those of the input; 1 for an image."""
    if x.dim() != _VIDEO_AXES:
        return 1
    return next((steps for steps in range(min(most, x.shape[2]), 0, -1) if x.shape[2] % steps == 0), 1)


def _grid(x: Tensor, stride: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of the tokens: rounded up where a model pads its images, and down where it cuts them."""
    height, width = (-(-side // stride) for side in x.shape[-2:])
    return (height, width) if height * width <= tokens else (x.shape[-2] // stride, x.shape[-1] // stride)
