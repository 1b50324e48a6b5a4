"""Arrays of numpy, in archives and in pickles: none of objects is ever unpickled.

Archives are how JAX and its kin publish weights. Pickles are read as data: what numpy would make of them is checked,
and numpy is never called. detectron2's ``.pkl``, Paddle's ``.pdparams`` and state dicts whose leaves are arrays hold
them, in every protocol and under the names of numpy 1 and 2; no torch is needed, so that an outline is read without it.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo_core.weights.formats.plain_pickle import Foreign, Later, require

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile
    from torch import Tensor

DTYPES = {
    **{f"f{width}": (f"float{8 * width}", width) for width in (2, 4, 8)},
    **{f"i{width}": (f"int{8 * width}", width) for width in (1, 2, 4, 8)},
    **{f"u{width}": (f"uint{8 * width}", width) for width in (1, 2, 4, 8)},
    **{f"c{width}": (f"complex{8 * width}", width) for width in (8, 16)},
    "b1": ("bool", 1),
    "ml_dtypes.bfloat16": ("bfloat16", 2),
}
"""What torch calls a dtype, and the bytes of a number, by what numpy calls it."""
_SCALARS = {
    **{f"f{width}": letter for width, letter in zip((2, 4, 8), "efd", strict=True)},
    **{f"i{width}": letter for width, letter in zip((1, 2, 4, 8), "bhiq", strict=True)},
    **{f"u{width}": letter for width, letter in zip((1, 2, 4, 8), "BHIQ", strict=True)},
    "b1": "?",
}
"""Letters of the module struct, by what numpy calls a dtype."""
_MOST_AXES = 64


class Numbers(NamedTuple):
    """The numbers of a pickled numpy array, with their shape and dtype, checked.

    Attributes:
        dtype: What torch calls its dtype, such as ``"float32"``.
        width: Bytes of a number.
        shape: Its size.
        strides: Numbers from one place to the next on each axis.
        data: All its numbers.
        is_big: Whether the most significant byte of a number comes first.
    """

    dtype: str
    width: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    data: bytes
    is_big: bool


def numpy_calls(make: Callable[[Numbers], object], odd: Callable[[str], object]) -> dict[str, Callable[..., object]]:
    """What stands for numpy's functions, by the names that a pickle has for them.

    Args:
        make: Numbers to what stands for the array.
        odd: The kind of an array that is none of plain numbers, in words, to what stands for it.
    """

    def array(data: object, dtype: object, shape: object, order: object, axes: object = None) -> object:
        numbers = _numbers(dtype, shape, data, order, axes)
        return odd("numpy array of something else than numbers") if numbers is None else make(numbers)

    def finish(state: Any) -> object:
        require(type(state) is tuple and len(state) in (4, 5))
        shape, dtype, by_columns, data = state[-4:]
        return array(data, dtype, shape, "F" if by_columns else "C")

    def reconstruct(kind: object, *_: object) -> object:
        return Later(_ARRAY, finish) if kind == _ARRAY else Foreign(str(kind))

    calls: dict[str, Callable[..., object]] = {
        "multiarray._reconstruct": reconstruct,
        "numeric._frombuffer": array,
        "multiarray.scalar": _scalar,
    }
    return {f"numpy.{core}.{name}": call for core in ("core", "_core") for name, call in calls.items()}


_ARRAY = "numpy.ndarray"


def _numbers(dtype: Any, shape: Any, data: Any, order: Any, axes: Any) -> Numbers | None:
    """The checked numbers of a pickled numpy array; None where it is of something else."""
    word, is_big = _word(dtype)
    if word not in DTYPES or not isinstance(data, bytes | str):
        return None
    name, width = DTYPES[word]
    content = data.encode("latin-1") if isinstance(data, str) else data  # as Python 2 wrote it
    require(type(shape) is tuple and len(shape) <= _MOST_AXES)
    require(all(type(side) is int and side >= 0 for side in shape))
    require(prod(shape) * width == len(content), "an array in it has more or fewer numbers than its shape says")
    if order != "K":
        require(order in ("C", "F", "A"))
        return Numbers(name, width, shape, _strides(shape, by_columns=order == "F"), content, is_big)
    axes = tuple(range(len(shape))) if axes is None else axes
    require(type(axes) is tuple and sorted(axes) == [*range(len(shape))])
    strides = _strides(shape, by_columns=False)
    turned, steps = ([each[axis] for axis in axes] for each in (shape, strides))
    return Numbers(name, width, tuple(turned), tuple(steps), content, is_big)


def _strides(shape: Sequence[int], *, by_columns: bool) -> tuple[int, ...]:
    """The strides of a pickled numpy array, by rows or by columns."""
    sides = shape if by_columns else shape[::-1]
    steps = [*accumulate(sides, lambda step, side: step * side, initial=1)][: len(shape)]
    return tuple(steps if by_columns else steps[::-1])


def _word(dtype: Any) -> tuple[str, bool]:
    """What numpy calls the dtype of a pickled array, and whether its most significant byte comes first."""
    if type(dtype) is not Foreign or dtype.name != "numpy.dtype" or not dtype.arguments:
        return "", False
    state = dtype.state if type(dtype.state) is tuple else ()
    return str(dtype.arguments[0]), len(state) > 1 and state[1] == ">"


def _scalar(dtype: Any, data: Any = None) -> object:
    """A pickled number of numpy as one of Python."""
    word, is_big = _word(dtype)
    content = data.encode("latin-1") if isinstance(data, str) else data
    if word not in _SCALARS or not isinstance(content, bytes):
        return Foreign("numpy.generic")
    return struct.unpack((">" if is_big else "<") + _SCALARS[word], content)[0]


def tensor_of(numbers: Numbers) -> Tensor:
    """The tensor of the checked numbers of an array, in memory of its own."""
    import torch

    dtype = getattr(torch, numbers.dtype)
    if not numbers.data:
        return torch.empty(numbers.shape, dtype=dtype, device="cpu")
    data = torch.frombuffer(bytearray(numbers.data), dtype=torch.uint8)
    if numbers.is_big != (sys.byteorder == "big"):
        width = numbers.width // (1 + dtype.is_complex)  # each part of a complex number by itself
        data = data.view(-1, width).flip(1).flatten()
    return data.view(dtype).as_strided(numbers.shape, numbers.strides).contiguous()


class NotNumbers(ValueError):
    """An array in an archive of numpy holds something else than numbers that torch has."""


def read_numpy_archive(path: Path) -> dict[str, Tensor]:
    """The arrays in a numpy archive by name, as tensors.

    Args:
        path: The archive; nothing is extracted from it to the disk.

    Raises:
        NotNumbers: One of them holds objects, or numbers that torch does not have.
        OSError, ValueError, zipfile.BadZipFile: The archive is broken.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive, name) for name in archive.files}


def _tensor(archive: NpzFile, name: str) -> Tensor:
    """The tensor of one array in a numpy archive."""
    import numpy as np
    import torch

    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise NotNumbers(f"{name} is an array of objects, which would have to be unpickled") from error
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.from_numpy(np.require(native, requirements=("C", "W")))
    except TypeError as error:
        raise NotNumbers(f"{name} is an array of {array.dtype}, which torch does not have") from error
