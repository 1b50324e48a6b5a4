"""Where a model goes: to its device, its dtype and its memory format, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import TypeVar

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.utils.memory_format import FORMATS, lies_last, with_channels_last

Model = TypeVar("Model", bound=nn.Module)

_BUFFER = 16 << 20
"""Bytes of each of the two pinned buffers, at most."""
_SHARE = 16
"""Each buffer is at most this fraction of the model, so that the host never holds much beside it."""
_SMALL = 1 << 20
"""Bytes below which a tensor goes its own way: two buffers gain nothing there."""
_AS_LARGE_AS_WEIGHTS = 1e38
"""Every dtype with eight bits of exponent, as float32 has, holds larger numbers: no weight is lost there."""
_LAST = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
"""The axes of filters in the order in which they lie in memory when their channels come last."""


def place(
    model: Model,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    channels_last: bool = False,
) -> Model:
    """Move a model as ``model.to`` does, with tensors mapped from a file taking the shortest way.

    To a GPU, each large tensor goes from where it is, converted and laid out on the way, through one of two pinned
    buffers: while one is being sent the other is filled. There is never a second copy of the model in the memory of the
    host, nor of a large tensor in that of the GPU.

    Args:
        model: Changed in place; parameters that are one stay one, on the meta device too.
        device: Where it goes; None leaves it where it is.
        dtype: What its floating-point tensors become; None leaves them as they are.
        channels_last: Lay filters out with their channels last.

    Returns:
        The same model.

    Raises:
        UsageError: A number of the model is too large for ``dtype``; nothing has changed.

    Example:
        >>> layer = place(torch.nn.Conv2d(3, 8, 3), dtype=torch.bfloat16, channels_last=True)
        >>> layer.weight.dtype, layer.weight.stride()
        (torch.bfloat16, (27, 1, 9, 3))
    """
    if dtype is not None:
        _require_range(model, dtype)
    if device is not None or dtype is not None:
        with _as_tied_as_before(model):
            if device is not None and device.type == "cuda":
                _by_pinned_buffers(model, device, dtype, last=channels_last)
            else:
                _each(model, lambda tensor: tensor.to(device, _becomes(tensor, dtype)))
    if channels_last:
        _each(model, with_channels_last)
    return model


def _require_range(model: nn.Module, dtype: torch.dtype) -> None:
    """Refuse a dtype that would make infinities of numbers: the variances of norms are often beyond 65,504."""
    most = torch.finfo(dtype).max
    if most > _AS_LARGE_AS_WEIGHTS:
        return
    for name, tensor in model.state_dict().items():
        if tensor.is_meta or not tensor.is_floating_point() or torch.finfo(tensor.dtype).max <= most:
            continue
        finite = tensor.detach().nan_to_num(0.0, 0.0, 0.0)  # what is infinite already stays what it is
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        if largest > most:
            raise UsageError(
                f"this {type(model).__name__} does not fit into {dtype}",
                expected=f"numbers of at most {most:,.0f}",
                got=f"{largest:,.0f} in {name}",
                hint="dtype=torch.bfloat16, which has the range of float32 with fewer digits",
            )


def _each(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Place every tensor as ``Module.to`` would: modules that keep more than tensors have a say in it."""
    # what ``to``, ``cuda`` and ``float`` are made of; there is no public name for it
    model._apply(change)  # type: ignore[no-untyped-call]  # noqa: SLF001 - torch has no public way


def _becomes(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    changes = dtype is not None and (tensor.is_floating_point() or tensor.is_complex())
    return dtype if changes and dtype is not None else tensor.dtype


@contextmanager
def _as_tied_as_before(model: nn.Module) -> Iterator[None]:
    """Keep placed parameters one that were one: on the way to the meta device, torch makes them two."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    yield
    for first, *others in names.values():
        for name in others:
            owner, _, attribute = name.rpartition(".")
            if model.get_parameter(name) is not model.get_parameter(first):
                setattr(model.get_submodule(owner), attribute, model.get_parameter(first))


def _by_pinned_buffers(model: nn.Module, device: torch.device, dtype: torch.dtype | None, *, last: bool) -> None:
    """Place a model on a GPU through pinned buffers, where its tensors are plain and large."""
    road = _Road(device, buffer_bytes(model))

    def moved(tensor: Tensor) -> Tensor:
        target = _becomes(tensor, dtype)
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
        is_dense = tensor.is_contiguous() or lies_last(tensor)
        if tensor.device.type != "cpu" or tensor.nbytes < _SMALL or not plain or not is_dense:
            return tensor.to(device, target)
        return road.send(tensor, target, last=last or lies_last(tensor))

    _each(model, moved)
    road.finish()


def buffer_bytes(model: nn.Module) -> int:
    """Bytes of each of the two pinned buffers to place a model by: a power of two, as torch rounds up to one.

    Example:
        >>> buffer_bytes(torch.nn.Linear(4096, 4096)), buffer_bytes(torch.nn.Linear(8, 8))
        (4194304, 1048576)
    """
    share = sum(parameter.nbytes for parameter in model.parameters()) // _SHARE
    return min(_BUFFER, max(_SMALL, 1 << max(share.bit_length() - 1, 0)))


class _Road:
    """Places tensors on a GPU through two pinned buffers, each filled while the other is being sent."""

    def __init__(self, device: torch.device, size: int) -> None:
        self._device = device
        self._size = size
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types there
        self._turns = cycle([self._buffer(), self._buffer()])

    def _buffer(self) -> tuple[Tensor, torch.cuda.Event]:
        """A buffer, and the event that says when what was in it has been sent."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types there
        return torch.empty(self._size, dtype=torch.uint8, device="cpu", pin_memory=True), event

    def send(self, tensor: Tensor, dtype: torch.dtype, *, last: bool) -> Tensor:
        """The tensor on the GPU, with its channels last where it has any; its values are there after :meth:`finish`."""
        layout = FORMATS.get(tensor.dim(), torch.contiguous_format) if last else torch.contiguous_format
        target = torch.empty(tensor.shape, dtype=dtype, device=self._device, memory_format=layout)
        # what was queued before may still use the memory that the target was given
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for piece, place_of_it in pieces(tensor.detach(), target, self._size // dtype.itemsize):
            buffer, sent = next(self._turns)
            sent.synchronize()
            staged = buffer[: piece.numel() * dtype.itemsize].view(dtype).view(piece.shape)
            staged.copy_(piece)
            with torch.cuda.stream(self._stream):
                place_of_it.copy_(staged, non_blocking=True)
                sent.record()
        target.record_stream(self._stream)
        return target

    def finish(self) -> None:
        """Wait until everything has arrived."""
        self._stream.synchronize()


def pieces(source: Tensor, target: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two tensors of one shape, to place one on a device piece by piece; each piece of the target is one stretch.

    Args:
        source: What is read; it may lie otherwise than the target.
        target: What is written: contiguous, or with its channels last.
        most: Elements of a piece.

    Example:
        >>> [len(one) for one, _ in pieces(torch.zeros(5, 1), torch.zeros(5, 1), 2)]
        [2, 2, 1]
    """
    if not target.is_contiguous():
        source, target = (tensor.permute(_LAST[tensor.dim()]) for tensor in (source, target))
    if source.is_contiguous():
        source, target = source.view(-1), target.view(-1)
    yield from _rows(source, target, most)


def _rows(source: Tensor, target: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two tensors of one shape in pieces of at most so many numbers, to place one on a device."""
    row = source[0].numel() if len(source) else 1
    if row > most:
        for one, other in zip(source, target, strict=True):
            yield from _rows(one, other, most)
    else:
        yield from zip(torch.split(source, most // max(row, 1)), torch.split(target, most // max(row, 1)), strict=True)
