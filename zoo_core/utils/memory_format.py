"""How filters lie in memory: with their channels first, as torch makes them, or last, as a GPU likes them best."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Axes of the filters of images and of volumes, to the format with the channels last."""


def with_channels_last(tensor: Tensor) -> Tensor:
    """The tensor in the memory format with channels last, where it has the axes of filters; else itself.

    Example:
        >>> with_channels_last(torch.zeros(8, 3, 5, 5)).stride(), with_channels_last(torch.zeros(8, 3)).stride()
        ((75, 1, 15, 3), (3, 1))
    """
    last = FORMATS.get(tensor.dim())
    return tensor.to(memory_format=last) if last else tensor


def lies_last(tensor: Tensor) -> bool:
    """Whether filters have the memory format with channels last.

    Of 1x1 ones only the strides tell, since they count as contiguous in both layouts; of those with one channel
    nothing does.

    Example:
        >>> lies_last(with_channels_last(torch.zeros(8, 3, 1, 1))), lies_last(torch.zeros(8, 3, 1, 1))
        (True, False)
    """
    last = FORMATS.get(tensor.dim())
    return last is not None and tensor.is_contiguous(memory_format=last) and tensor.stride(-1) != 1


def is_channels_last(module: nn.Module) -> bool:
    """Whether any filters of a module have the memory format with channels last.

    Example:
        >>> is_channels_last(torch.nn.Conv3d(3, 8, 3).to(memory_format=torch.channels_last_3d))
        True
    """
    return any(lies_last(parameter) for parameter in module.parameters())


def lay_last(module: nn.Module) -> None:
    """Give the filters of a module the memory format with channels last, in place.

    ``module.to(memory_format=...)`` takes one format, and fails on the filters of the other.

    Example:
        >>> lay_last(layer := torch.nn.Conv3d(3, 8, 3))
        >>> layer.weight.is_contiguous(memory_format=torch.channels_last_3d)
        True
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if not is_lazy(tensor):  # has no axes yet
            tensor.data = with_channels_last(tensor.data)


def follows(old: nn.Module, model: nn.Module) -> bool:
    """Whether what takes the place of ``old`` in ``model`` is to have its memory format, channels last.

    It has the one of the filters of ``old``; where that has none, or theirs fit both formats, of any in the model.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> follows(net[2], net.to(memory_format=torch.channels_last))
        True
    """
    telling = [each for each in old.parameters() if each.dim() in FORMATS and each.shape[1] > 1]
    return any(lies_last(each) for each in telling or model.parameters())
