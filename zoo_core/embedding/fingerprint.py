"""What the features of a dataset depend on, in one digest: the numbers of a backbone, and the data as it sees them."""

from __future__ import annotations

import hashlib
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError, ZooWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SAMPLES = 16


def digest_of_module(module: nn.Module) -> str:
    """The SHA-256 of what a module is made of and of every parameter and buffer in it.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> before = digest_of_module(layer)
        >>> _ = layer.running_mean.add_(1)
        >>> digest_of_module(layer) == before
        False
    """
    hasher = hashlib.sha256(f"{type(module).__module__} {_ADDRESS.sub('', repr(module))}".encode())
    for name, tensor in _tensors(module):
        hasher.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in memory, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    numbers: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(numbers)


def digest_of_samples(dataset: Any, total: int) -> str:  # noqa: ANN401 - any dataset that can be indexed
    """The SHA-256 of the length of a dataset and of a few samples, evenly spaced, as it gives them.

    Args:
        dataset: Gives pairs of an image and a target.
        total: Its length.

    Raises:
        UsageError: A sample is not such a pair.

    Warns:
        ZooWarning: The dataset gives another image when it is read again.
    """
    hasher = hashlib.sha256(str(total).encode())
    for number in range(min(_SAMPLES, total)):
        index = number * total // min(_SAMPLES, total)
        image, target = _pair_in(dataset[index])
        if number == 0:
            _warn_of_chance(image, _pair_in(dataset[index])[0])
        for tensor in (image, torch.as_tensor(target, device="cpu")):
            hasher.update(f"\n{index} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def _pair_in(sample: object) -> tuple[Tensor, Any]:
    """The image and the target of a sample.

    Raises:
        UsageError: It is something else.
    """
    numbers = (Tensor, int, float)
    if isinstance(sample, tuple | list) and len(sample) == 2 and isinstance(sample[0], Tensor):  # noqa: PLR2004 - a pair
        if isinstance(sample[1], numbers):
            return sample[0], sample[1]
        got = f"a target of type {type(sample[1]).__name__}"
    else:
        got = f"a sample of type {type(sample).__name__}"
        if isinstance(sample, tuple | list):
            got = f"({', '.join(type(part).__name__ for part in sample)})"
    raise UsageError(
        "features can be kept of pairs of tensors only",
        expected="dataset[i] to be (image, target): a tensor, and a number or a tensor",
        got=got,
        hint="put the preprocessing of the model, and ToTensor, into the dataset",
    )


def _warn_of_chance(first: Tensor, again: Tensor) -> None:
    if not torch.equal(first, again):
        warnings.warn(
            "the dataset gives another image each time the same index is read: what is kept are the features "
            "of one draw, used again in every epoch; take random augmentation out, or train without cached features",
            ZooWarning,
            stacklevel=5,
        )
