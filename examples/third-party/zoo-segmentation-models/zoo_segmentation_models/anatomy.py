"""Where the stages of an encoder are: each ends where a module gives one of the feature maps that forward returns."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from segmentation_models_pytorch import create_model
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import nn

import zoo_core as zoo
from zoo_core.plugin import Anatomy, AnatomyError, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_SIDE = 64


def anatomy(model: Any) -> Anatomy:
    """Where stem and stages are, found by running the encoder once on a small empty image.

    Args:
        model: An encoder of segmentation_models_pytorch, or a whole model: the head and the split of one are traced.

    Raises:
        AnatomyError: It is none.

    Example:
        >>> from segmentation_models_pytorch.encoders import get_encoder
        >>> [(stage.name, stage.stride) for stage in anatomy(get_encoder("resnet18", weights=None)).stages]
        [('stage1', 2), ('stage2', 4), ('stage3', 8), ('stage4', 16), ('stage5', 32)]
    """
    if isinstance(model, SegmentationModel):
        return _whole(model)
    if not isinstance(model, EncoderMixin):
        raise AnatomyError(f"{type(model).__name__} is not an encoder of segmentation_models_pytorch")
    calls, maps = _run(model)
    finished = {call.path: at for at, call in enumerate(calls)}
    modules = dict(model.named_modules())
    given = [made for made in maps[1:] if made is not maps[0] and made.numel()]  # a MiT has an empty map at stride 2
    ends = [(made, _end(calls, made)) for made in given]
    once = {path for path, count in Counter(call.path for call in calls).items() if count == 1}  # DPNs share their ReLU
    leaves = {path: at for path, at in finished.items() if path in once and not any(modules[path].children())}
    starts = [-1, *(finished[end.path] for _, end in ends)]
    return Anatomy(
        heads=(),
        stem=tuple(call.path for call in calls if call.given is maps[0] and isinstance(modules[call.path], nn.Conv2d)),
        stages=tuple(
            Stage(
                f"stage{number}",
                (*_within(model, "", leaves, range(start + 1, stop), end.path), end.path),
                channels=made.shape[1],
                stride=_SIDE // made.shape[-1],
                read=joined if isinstance(end.made, tuple) else None,
            )
            for number, (made, end), (start, stop) in zip(_numbers(given), ends, pairwise(starts), strict=True)
        ),
        channel_attributes=("_in_channels",),
        headless="an encoder gives feature maps and no scores",
    )


def _numbers(given: list[torch.Tensor]) -> list[int]:
    """By strides of 2, and one after another where an encoder was dilated."""
    first = (_SIDE // given[0].shape[-1]).bit_length() - 1
    return [*range(first, first + len(given))]


def _whole(model: Any) -> Anatomy:
    image = torch.zeros(1, model.encoder._in_channels, 2 * _SIDE, 2 * _SIDE)  # noqa: SLF001 - all that records it
    if not isinstance(model.encoder, EncoderMixin):  # one of timm
        return zoo.trace(model, image).anatomy
    inside = [
        replace(stage, modules=tuple(f"encoder.{path}" for path in stage.modules))
        for stage in anatomy(model.encoder).stages
    ]
    if any(stage.read for stage in inside):
        traced = replace(zoo.trace(model, image).anatomy, features=None, pool=None, stages=tuple(inside))
    else:
        traced = zoo.trace(model, image, stages={stage.name: stage.modules for stage in inside}).anatomy
    return replace(traced, channel_attributes=("encoder._in_channels",))


def whole(*, arch: str, encoder_name: str, aux_classes: int = 0) -> nn.Module:
    """A whole model without weights.

    Args:
        arch: The decoder, as ``smp.create_model`` spells it.
        encoder_name: As the library spells it.
        aux_classes: Of a classifier of the image on the encoder, whose scores are a second output; 0 for none.

    Example:
        >>> whole(arch="unet", encoder_name="resnet18", aux_classes=3)(torch.zeros(2, 3, 64, 64))[1].shape
        torch.Size([2, 3])
    """
    model: nn.Module = create_model(
        arch, encoder_name, encoder_weights=None, aux_params={"classes": aux_classes} if aux_classes else None
    )
    return model


def renamed(state: Mapping[str, torch.Tensor], _: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a DenseNet, whose older files say ``norm.1`` where the model says ``norm1``.

    Example:
        >>> [*renamed({"features.denseblock1.denselayer2.norm.1.bias": torch.ones(3)}, nn.Identity())]
        ['features.denseblock1.denselayer2.norm1.bias']
    """
    return {re.sub(r"(denselayer\d+\.\w+)\.(?=[12]\.)", r"\1", name): tensor for name, tensor in state.items()}


class _Call(NamedTuple):
    path: str
    given: Any
    made: Any


def joined(_: nn.Module, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The map of a stage of DPN, whose blocks give it in two parts.

    Args:
        parts: Two maps ``[N, C1, H, W]`` and ``[N, C2, H, W]``.

    Returns:
        ``[N, C1 + C2, H, W]``.

    Example:
        >>> joined(nn.Identity(), (torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4))).shape
        torch.Size([1, 5, 4, 4])
    """
    return torch.cat(parts, dim=1).relu()


def _end(calls: list[_Call], made: torch.Tensor) -> _Call:
    """The last call that gives a map: as it is, in parts that forward joins (DPN), or as what forward copies (MiT)."""
    ways: tuple[Callable[[Any], bool], ...] = (
        lambda given: given is made,
        lambda given: isinstance(given, tuple) and torch.cat(given, dim=1).shape == made.shape,
        lambda given: isinstance(given, torch.Tensor) and given.shape == made.shape,
    )
    calls_of = ([call for call in calls if way(call.made)] for way in ways)
    return next(found[-1] for found in calls_of if found)


def _run(model: Any) -> tuple[list[_Call], list[Any]]:
    """Every call of a module but those that do nothing, in the order in which they ended; and the maps."""
    calls: list[_Call] = []
    modes = {module: module.training for module in model.modules()}
    hooks = [
        module.register_forward_hook(lambda _, given, made, path=path: calls.append(_Call(path, given[0], made)))
        for path, module in model.named_modules()
        if path and not isinstance(module, nn.Identity)
    ]
    like = next(model.parameters())
    try:
        with torch.no_grad():
            x = like.new_zeros(1, model._in_channels, _SIDE, _SIDE)  # noqa: SLF001 - only it says
            maps = [x, *model.eval()(x)]
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return calls, maps


def _within(parent: nn.Module, start: str, leaves: dict[str, int], when: range, end: str) -> Iterator[str]:
    """The largest modules that ran in a span of the forward pass alone, but for the one that ends it."""
    for name, child in parent.named_children():
        path = f"{start}{name}"
        ran = [at for leaf, at in leaves.items() if leaf == path or leaf.startswith(f"{path}.")]
        whole = all(at in when for at in ran) and not end.startswith(f"{path}.")
        if ran and whole and path != end:
            yield path
        elif any(at in when for at in ran) and path != end:
            yield from _within(child, f"{path}.", leaves, when, end)
