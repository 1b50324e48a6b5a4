"""Where the stages of an encoder are: each ends where a module gives one of the feature maps that forward returns."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import nn

from zoo_core import Anatomy, AnatomyError, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIDE = 64


def anatomy(model: Any) -> Anatomy:  # noqa: ANN401 - the library ships no types
    """Where stem and stages are, found by running the encoder once on a small empty picture.

    Args:
        model: An encoder of segmentation_models_pytorch.

    Raises:
        AnatomyError: It is none.

    Example:
        >>> from segmentation_models_pytorch.encoders import get_encoder
        >>> [(stage.name, stage.stride) for stage in anatomy(get_encoder("resnet18", weights=None)).stages]
        [('stage1', 2), ('stage2', 4), ('stage3', 8), ('stage4', 16), ('stage5', 32)]
    """
    if not isinstance(model, EncoderMixin):
        raise AnatomyError(f"{type(model).__name__} is not an encoder of segmentation_models_pytorch")
    calls, maps = _run(model)
    finished = {call.path: at for at, call in enumerate(calls)}
    modules = dict(model.named_modules())
    ends = [(made, [call.path for call in calls if call.made is made]) for made in maps[1:]]
    last = [(made, paths[-1]) for made, paths in ends if paths]
    leaves = {path: at for path, at in finished.items() if not any(modules[path].children())}
    starts = [-1, *(finished[path] for _, path in last)]
    return Anatomy(
        heads=(),
        stem=tuple(call.path for call in calls if call.given is maps[0] and isinstance(modules[call.path], nn.Conv2d)),
        stages=tuple(
            Stage(
                f"stage{(_SIDE // made.shape[-1]).bit_length() - 1}",
                (*_within(model, "", leaves, range(start + 1, stop), path), path),
                channels=made.shape[1],
                stride=_SIDE // made.shape[-1],
            )
            for (made, path), (start, stop) in zip(last, pairwise(starts), strict=True)
        ),
        channel_attributes=("_in_channels",),
        headless="an encoder gives feature maps and no scores",
    )


class _Call(NamedTuple):
    path: str
    given: Any
    made: Any


def _run(model: Any) -> tuple[list[_Call], list[Any]]:  # noqa: ANN401 - as above
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
