"""The part of a model that turns images into feature maps of several sizes, and the modules that give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy
from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.editing import record_edit
from zoo_core.surgery.features.cut import AtStage, cut_off, only_front
from zoo_core.surgery.features.dilate import dilated
from zoo_core.surgery.features.extract import module_path, names_to_extract, recorded, tapped
from zoo_core.surgery.features.forward import with_pre_hooks, without_hooks
from zoo_core.surgery.features.twin import Hook, hooked, own_hooks, replaced
from zoo_core.surgery.hold import is_held
from zoo_core.surgery.inputs import FAILING, example_input, wrong_input
from zoo_core.surgery.metadata import anatomy_of, attach, metadata_of, unwrap
from zoo_core.surgery.select import depths
from zoo_core.surgery.structure import under
from zoo_core.utils.arguments import check_count
from zoo_core.utils.eval_mode import evaluating

_MAP = 4
_SIGNAL = 3
"""Axes of a batch of signals, ``[N, C, L]``, or of tokens."""


@dataclass(frozen=True)
class Place:
    """A module that gives an encoder one of its feature maps.

    Attributes:
        name: What the user calls it: a stage, or the path of the module.
        path: Its path.
        channels: Channels of the map.
        stride: Pixels of the image for one step of the map.
        depth: The deepest stage that has to be there for it to run, counted as in ``depths``.
        order: Grows in the order in which the modules finish.
        read: ``(model, output)`` to the map, where the module gives something else.
    """

    name: str
    path: str
    channels: int
    stride: int
    depth: int
    order: int
    read: Callable[[Any, Any], Any] | None = None


STEM = "stem"
"""What users call the last map before the first stage, where no stage and no module has that name."""


def _pyramid(model: nn.Module, body: nn.Module, depth: int, most: int) -> list[Place]:
    """The maps of an encoder: the image, and one for each stride 2, 4, 8 and so on, without path where none is.

    Raises:
        UsageError: ``depth`` is not from 1 to the number of strides.
        NotSupported: The model has no maps of these strides.
    """
    check_count("depth", depth)
    stages = {stage.stride: stage.name for stage in anatomy_of(model).stages}
    deepest = int(math.log2(max(stages)))
    if depth > deepest:
        raise UsageError(
            f"depth cannot be {depth}", expected=f"at most {deepest}: the last map has the stride {max(stages)}"
        )
    strides = [2**level for level in range(1, depth + 1)]
    names = [stages[stride] for stride in strides if stride in stages]
    chosen = {place.name: place for place in places(model, body, names, most)} if names else {}
    result = {stride: chosen[stages[stride]] for stride in strides if stride in stages}
    if 2 not in result:  # noqa: PLR2004 - the first stride
        result = {**_before_stages(model, body), **result}
    if not result.keys() & set(strides):
        raise NotSupported(
            f"this model has no maps of the strides {', '.join(map(str, strides))}",
            got=f"maps of {', '.join(map(str, stages))}",
            hint="zoo.encoder(model) without depth= gives the maps that it has",
        )
    whole = Place("input", "", example_input(model).shape[1], 1, 0, 0)
    return [whole, *(result.get(stride) or Place(f"stride {stride}", "", 0, stride, 0, 0) for stride in strides)]


def places(model: nn.Module, body: nn.Module, at: Sequence[str] | None, most: int) -> list[Place]:
    """Where an encoder takes its maps from.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        body: The same, or its dilated twin.
        at: Names of stages and paths of modules; None for the last stage of each stride that ``model`` has.
        most: The largest stride that ``body`` has.

    Raises:
        UsageError: ``at`` is neither a name nor several.
        UnknownPart: There is no such stage or module; the message lists the stages.
        NotSupported: A module did not run, or gives no map.
    """
    stages, metadata = anatomy_of(model).stages, metadata_of(model)
    axes = metadata.example.dim() if isinstance(metadata.example, torch.Tensor) else 0
    if metadata.example is None:
        axes = 1 + len(metadata.card.input_size) if metadata.card else _MAP
    if axes <= _SIGNAL:
        raise NotSupported(
            "an encoder of this model cannot be made",
            cause="its forward takes no image, so its stages give no maps of rows and columns",
            hint="zoo.features(model, x) gives what each of its stages gives",
        )
    result = {
        stage.name: Place(stage.name, stage.output, stage.channels, min(stage.stride, most), depth, depth, stage.read)
        for depth, stage in enumerate(stages, 1)
    }
    names = tuple({stage.stride: stage.name for stage in stages}.values()) if at is None else names_to_extract(at)
    if not names:
        raise UsageError("an encoder without any map was requested", expected="at least one name in at")
    if STEM in names and STEM not in {*result, *(path for path, _ in body.named_modules())}:
        result[STEM] = _stem(model, body)
    others = [module_path(model, name) for name in names if name not in result]
    if not others:
        return [result[name] for name in names]
    known = {result[name].path for name in names if name in result}
    outputs = _finished(model, body, {*others, *known, *(stage.output for stage in stages)})
    order = list(outputs)
    return [
        replace(place, name=name, order=order.index(place.path))
        for name in names
        for place in [result.get(name) or _measured(model, name, outputs)]
    ]


def _stem(model: nn.Module, body: nn.Module) -> Place:
    """The last map before the first stage for an encoder, larger than that of the stage where there is one.

    Raises:
        NotSupported: There is none.
    """
    first = anatomy_of(model).stages[0].stride
    result = _before_stages(model, body)
    strides = sorted((stride for stride in result if stride < first), reverse=True) or [*result]
    if not strides:
        raise NotSupported(
            "this model has no map before its first stage",
            hint=f"its stages are {', '.join(stage.name for stage in anatomy_of(model).stages)}",
        )
    return replace(result[strides[0]], name=STEM)


def _before_stages(model: nn.Module, body: nn.Module) -> dict[int, Place]:
    """For an encoder, the last module before the first stage that gives a map of each stride, from 2 to its own."""
    stages, layout = anatomy_of(model).stages, anatomy_of(model).layout
    inside = [module for stage in stages for module in stage.modules]
    paths = {
        path
        for path, _ in body.named_modules()
        if path and not any(under(path, module) or under(module, path) for module in inside)
    }
    outputs = _finished(model, body, {*paths, stages[0].output})
    order = list(outputs)
    result = {}
    for path in order[1 : order.index(stages[0].output)]:
        output = outputs[path]
        if _is_map(output, layout):
            stride = _stride(outputs[""], output, layout)
            channels = int(output.shape[-1 if layout == "NHWC" else 1])
            result[stride] = Place(path, path, channels, stride, 0, 0)
    return {stride: place for stride, place in result.items() if 1 < stride <= stages[0].stride}


def _finished(model: nn.Module, body: nn.Module, paths: set[str]) -> dict[str, Any]:
    """What modules that an encoder may read give for an image, in the order they finish; ``""`` is the image."""
    result: dict[str, Any] = {}

    def keeping(path: str) -> Hook:
        def keep(_module: nn.Module, _given: object, out: Any) -> None:
            result.pop(path, None)
            result[path] = out

        return keep

    twin, x = hooked(body, {path: keeping(path) for path in paths}), example_input(model)
    with torch.no_grad(), evaluating(twin):
        _ = (anatomy_of(model).features or without_hooks)(twin, x)
    return {"": x, **result}


def _measured(model: nn.Module, path: str, outputs: dict[str, Any]) -> Place:
    """The place of an encoder's map that is no stage, with its channels, stride and depth as one run shows them."""
    anatomy, result = anatomy_of(model), outputs.get(path)
    tokens = anatomy.layout == "NLC" and isinstance(result, torch.Tensor) and result.dim() == _SIGNAL
    if not isinstance(result, torch.Tensor) or not (tokens or _is_map(result, anatomy.layout)):
        got = f"{list(result.shape)}" if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
        raise NotSupported(
            f"the module {path!r} gives no feature map",
            got="nothing: it did not run before the features" if result is None else got,
            hint="zoo.features(model, x, at=[...]) takes what any module gives",
        )
    channels = result.shape[-1 if tokens or anatomy.layout == "NHWC" else 1]
    stride = anatomy.stages[0].stride if tokens else _stride(outputs[""], result, anatomy.layout)
    return Place(path, path, int(channels), stride, _depth(model, path, list(outputs)), 0)


def _is_map(output: object, layout: str) -> bool:
    """Whether an output is a map for an encoder: channels, rows and columns; beside tokens, channels come first."""
    if not isinstance(output, torch.Tensor) or output.dim() != _MAP:
        return False
    _, first, second, third = output.shape
    return layout != "NLC" or (second == third and first != second)


def _stride(x: Tensor, found: Tensor, layout: str) -> int:
    """An encoder's stride at one of its maps, in pixels: exact, or a power of two where borders are cut off."""
    width = found.shape[-2 if layout == "NHWC" else -1]
    stride, rest = divmod(x.shape[-1], width)
    return int(2 ** round(math.log2(x.shape[-1] / width))) if rest else stride


def _depth(model: nn.Module, path: str, order: list[str]) -> int:
    """The deepest stage that an encoder has to keep for the module at a path to run."""
    stages = anatomy_of(model).stages
    before = sum(stage.output in order[: order.index(path)] for stage in stages)
    inside = any(under(path, module) for stage in stages for module in stage.modules)
    own = [depth for name, depth in depths(model).items() if under(name, path)]
    return max([before + (inside or before == len(stages)), *own])


_VIDEO_AXES = 5
"""Images, channels, time, rows and columns."""
_MOST_TOKENS_OF_THE_WHOLE = 16
"""Class, distillation and register tokens; models have up to nine."""


class Encoder(nn.Module):
    """The front of a model as an encoder: images to feature maps, large to small; made by :func:`zoo_core.encoder`.

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
        _refuse_no_encoder(bare, anatomy)
        convolutions = {} if output_stride is None else dilated(model, output_stride)
        most = output_stride or max(stage.stride for stage in anatomy.stages)
        twin = replaced(bare, convolutions)
        chosen = places(bare, twin, at, most) if depth is None else _pyramid(bare, twin, depth, most)
        deepest = max(place.depth for place in chosen)
        run = anatomy.features or without_hooks
        self.body = _body(bare, twin, chosen, deepest, run)
        record_edit(self.body, "encoder", at=at, output_stride=output_stride, depth=depth)
        self.names = tuple(place.name for place in chosen)
        self.channels = tuple(place.channels for place in chosen)
        self.strides = tuple(place.stride for place in chosen)
        self.depth = len(chosen) - (depth is not None)
        self._places, self._run, self._layout = chosen, run, anatomy.layout
        known = metadata_of(bare)
        self._native = known.designed_size(bare)[1:] if known.card else ()
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
        """``[N, C, H, W]`` to maps of ``[N, channels[i], H / strides[i], W / strides[i]]``.

        Raises:
            UsageError: ``x`` is none that the model takes.
        """
        paths = [place.path for place in self._places if place.path]
        try:
            _, outputs = recorded(self._run, self.body, with_pre_hooks(self.body, x), paths)
        except FAILING as error:
            named = None if torch.compiler.is_compiling() else wrong_input(self.body, x, "the encoder", error)
            if named is None:
                raise
            raise named from error
        result = dict(zip(paths, outputs, strict=True))
        return [self._map(place, result, x) for place in self._places]

    def _map(self, place: Place, found: dict[str, Tensor], x: Tensor) -> Tensor:
        if place.stride == 1 and not place.path:
            return x
        if not place.path:
            return _no_map(x, place.stride)
        output = found[place.path] if place.read is None else place.read(self.body, found[place.path])
        return as_map(output, x, self._layout, place.stride, self._native)

    def extra_repr(self) -> str:
        """What ``print`` shows above the body."""
        return f"names={self.names}, channels={self.channels}, strides={self.strides}"


def _refuse_no_encoder(model: nn.Module, anatomy: Anatomy) -> None:
    """Raise NotSupported for a model that cannot be an encoder: one without stages, or a detector."""
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
    """What an encoder runs: a tapped twin of the model without what is deeper than its maps; its metadata says so."""
    body = cut_off(model, twin, lambda depth: depth > deepest)
    body = tapped(body, {place.path for place in chosen if place.path})
    last = max((place for place in chosen if place.path), key=lambda place: place.order)
    own_hooks(body, before=False)
    kept = min(deepest, len(anatomy_of(model).stages))
    only_front(model, body, kept, AtStage(last.path, run), "it is an encoder, and the model has the head")
    known = metadata_of(body)
    strides = {place.path: place.stride for place in chosen}
    stages = tuple(replace(each, stride=strides.get(each.output, each.stride)) for each in known.anatomy.stages)
    held = frozenset(path for path, module in body.named_modules() if is_held(module))
    attach(body, replace(known, anatomy=replace(known.anatomy, stages=stages), held=held))
    return body


def _no_map(x: Tensor, stride: int) -> Tensor:
    """A map without channels for an encoder, as segmentation_models_pytorch fills strides that a model lacks."""
    return x.new_zeros(x.shape[0], 0, *(side // stride for side in x.shape[2:]))


def as_map(found: Tensor, x: Tensor, layout: str, stride: int, native: tuple[int, ...] = ()) -> Tensor:
    """What a stage gives, as a map of an encoder: ``[N, C, H, W]``, or ``[N, C, T, H, W]`` of a video.

    Args:
        found: What it gave.
        x: What the model was given.
        layout: Of what it gave.
        stride: Pixels of ``x`` between neighbouring places.
        native: Height and width that the model was designed for, for the error.

    Raises:
        NotSupported: Tokens are not a few that stand for the whole and then one for each place.
    """
    if found.dim() != _SIGNAL:
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


for _function in ("as_map", "_no_map"):  # FX keeps them as calls: what they do depends on shapes
    torch.fx.wrap(_function)


def _time(x: Tensor, most: int) -> int:
    """Steps of time in a video's tokens that an encoder makes a map of, a divisor of the input's; 1 for an image."""
    if x.dim() != _VIDEO_AXES:
        return 1
    return next((steps for steps in range(min(most, x.shape[2]), 0, -1) if x.shape[2] % steps == 0), 1)


def _grid(x: Tensor, stride: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of tokens in an encoder's map: rounded up where a model pads its images, down where it cuts."""
    height, width = (-(-side // stride) for side in x.shape[-2:])
    return (height, width) if height * width <= tokens else (x.shape[-2] // stride, x.shape[-1] // stride)
