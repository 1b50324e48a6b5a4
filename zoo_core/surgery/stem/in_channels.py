"""Which input of a first layer comes from which channel of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.utils.eval_mode import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FRAMES = 16


@dataclass(frozen=True)
class Order:
    """How the inputs of a layer lie: input ``j`` comes from channel ``j // inner % channels`` of the image.

    A plain convolution has one input a channel. After space-to-depth or in a linear patch embedding, each channel has
    many: ``inner`` is 1 when the channels of one pixel lie together, and the pixels of a block when those do.

    Attributes:
        channels: Channels of the image.
        inner: How many neighbouring inputs come from one channel.

    Example:
        >>> Order(channels=3, inner=4).by_channel(torch.arange(24).view(1, 24)).shape
        torch.Size([1, 3, 2, 4])
    """

    channels: int
    inner: int = 1

    def by_channel(self, weight: Tensor) -> Tensor:
        """``[out, inputs, ...]`` to ``[out, channels, outer, inner, ...]``."""
        out, inputs, *kernel = weight.shape
        outer = inputs // (self.channels * self.inner)
        return weight.reshape(out, outer, self.channels, self.inner, *kernel).transpose(1, 2).contiguous()

    @staticmethod
    def by_input(weight: Tensor) -> Tensor:
        """``[out, channels, outer, inner, ...]`` back to ``[out, inputs, ...]``."""
        return weight.transpose(1, 2).flatten(1, 3)


def order_of(model: nn.Module, layer: nn.Module, expected: int, size: tuple[int, int]) -> Order:
    """In what order the ``in_channels`` of a first layer take the channels of the image.

    A layer with as many inputs as the image has channels takes them as they are. Any other is watched while the front
    of the model runs on images in which one channel is lit.

    Args:
        model: The model, as it is now; left in the mode it is in.
        layer: One of its first layers, a convolution or a linear layer.
        expected: How many channels the image probably has.
        size: Height and width of an image that the model takes, in pixels.

    Raises:
        NotSupported: No number of channels explains what the layer is given.
    """
    inputs = inputs_of(layer)
    if isinstance(layer, CONVOLUTIONS) and inputs == expected:
        return Order(expected)
    if next(layer.parameters()).is_meta:
        raise _unclear(layer, "a model on the meta device cannot be run", "do it before the model goes there")
    with evaluating(model):
        for channels in dict.fromkeys([expected, *_divisors(inputs)]):
            owners = _owners(model, layer, channels, size)
            inner = next((n for n in _divisors(inputs) if owners == [j // n % channels for j in range(inputs)]), None)
            if owners and inner:
                return Order(channels, inner)
    raise _unclear(layer, f"no number of channels explains its {inputs} inputs", "change the layer by hand")


def channels_of_images(model: nn.Module, layer: nn.Module, expected: int, size: tuple[int, int]) -> int:
    """How many channels the images of a model have: as many as a first layer takes, or what comes to that many.

    Args:
        model: As for :func:`order_of`; it may be on the meta device, since only shapes are looked at.
        layer: As there.
        expected: As there.
        size: As there.
    """
    inputs, axis = inputs_of(layer), _axis(layer)
    if inputs == expected:
        return expected
    with evaluating(model):
        for channels in (expected, inputs):
            given = _input_of(model, layer, _dark(layer, channels, size))
            if given is not None and given.shape[axis] == inputs:
                return channels
    return expected


def inputs_of(layer: nn.Module) -> int:
    """How many input channels a convolution, or inputs a linear layer, has over all its groups."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


class _Reached(Exception):
    """No error: the forward pass has come to the first layer, whose inputs show which channel they come from."""

    def __init__(self, given: Tensor) -> None:
        self.given = given


def _owners(model: nn.Module, layer: nn.Module, channels: int, size: tuple[int, int]) -> list[int]:
    """For each input of a first layer the one channel of the image that it comes from; empty when unclear."""
    axis, dark = _axis(layer), _dark(layer, channels, size)
    base = _input_of(model, layer, dark)
    if base is None or base.shape[axis] != inputs_of(layer):
        return []
    lit = []
    for channel in range(channels):
        image = dark.clone()
        image[:, channel] = 1
        given = _input_of(model, layer, image)
        if given is None:
            return []
        lit.append((given != base).movedim(axis, 0).flatten(1).any(1))
    seen = torch.stack(lit)  # [channels, inputs]
    return seen.int().argmax(0).tolist() if bool((seen.sum(0) == 1).all()) else []


def _axis(layer: nn.Module) -> int:
    """The axis that the input channels of a first layer are on."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _dark(layer: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """A black image, or some frames of one, in which one input channel after another is lit."""
    weight = next(layer.parameters())
    frames = (_FRAMES,) if isinstance(layer, nn.Conv3d) else ()
    return torch.zeros(1, channels, *frames, *size, device=weight.device, dtype=weight.dtype)


@torch.no_grad()
def _input_of(model: nn.Module, layer: nn.Module, image: Tensor) -> Tensor | None:
    """Input of a first layer for an image, to count its channels by; None when the model does not come that far."""

    def stop(_: nn.Module, args: tuple[Any, ...]) -> NoReturn:
        raise _Reached(args[0])

    hook = layer.register_forward_pre_hook(stop)
    try:
        model(image)
    except _Reached as reached:
        return reached.given
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError):
        return None  # the library's way to say that the image has the wrong number of channels
    finally:
        hook.remove()
    return None


def _divisors(number: int) -> Iterator[int]:
    """The divisors of a number of inputs, each of which may be the number of channels of the image."""
    return (n for n in range(1, number + 1) if number % n == 0)


def _unclear(layer: nn.Module, cause: str, hint: str) -> NotSupported:
    """The error for a first layer of which it is unclear which input comes from which channel."""
    return NotSupported(f"cannot tell which input of {layer} comes from which channel", cause=cause, hint=hint)
