"""How torch's files say that tensors are made of their storages, as data and with every view checked.

The names are those of ``torch/_utils.py``. A tensor that is none of plain numbers comes back as an :class:`OddTensor`,
so that an error can name it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod
from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo_core.weights.formats.memory_limits import require_modest
from zoo_core.weights.formats.numpy_arrays import numpy_calls, tensor_of
from zoo_core.weights.formats.outline import (
    ODD_CALLS,
    STORAGES,
    UTILS,
    OddTensor,
    size_of,
    tensor_of_parameter,
    tensor_of_subclass,
)
from zoo_core.weights.formats.plain_pickle import Name, require

DTYPES: dict[str, torch.dtype] = {word: getattr(torch, name) for word, (name, _) in STORAGES.items()}
"""Dtypes by the name before ``Storage``; the numbers of an untyped one are bytes until a tensor says what they are."""


class Storage:
    """Numbers in a file, of which tensors are rebuilt as views.

    Args:
        numbers: The bytes.
        dtype: Of the numbers.
    """

    __slots__ = ("dtype", "numbers")

    def __init__(self, numbers: torch.UntypedStorage, dtype: torch.dtype) -> None:
        self.numbers, self.dtype = numbers, dtype


class StorageId(NamedTuple):
    """What a persistent id in a pickle of torch says of a storage from which tensors are rebuilt.

    Attributes:
        key: Its name in the file.
        dtype: Of its numbers.
        length: How many bytes it has.
        view: Key, first number and length of a view of it, in files from before torch 0.4; or None.
    """

    key: str
    dtype: torch.dtype
    length: int
    view: tuple[Any, ...] | None = None


def storage_id(said: Any) -> StorageId:
    """What the tuple of a persistent id says of the storage from which a tensor is rebuilt.

    Raises:
        NotPlain: It names no storage.
    """
    require(isinstance(said, tuple) and len(said) in (5, 6) and said[0] == "storage", "it refers to no storage")
    _, kind, key, _place, count, *view = said
    dtype = dtype_of(kind)
    require(type(key) is str and is_count(count))
    require(not view or view[0] is None or (type(view[0]) is tuple and len(view[0]) == 3))  # noqa: PLR2004 - key, first, length
    return StorageId(key, dtype, count * dtype.itemsize, view[0] if view else None)


def dtype_of(kind: object) -> torch.dtype:
    """The dtype with which a storage is rebuilt, by the name of its class in a pickle of torch.

    Raises:
        NotPlain: It is the name of something else.
    """
    module, _, name = str(kind).rpartition(".")
    word = name.removesuffix("Storage").removesuffix("Tensor")
    require(type(kind) is Name and module in ("torch", "torch.cuda", "torch.storage") and word in DTYPES)
    return DTYPES[word]


def is_count(number: object) -> bool:
    """Whether a size or offset, from which a tensor is to be rebuilt, is an integer that can count numbers."""
    return type(number) is int and 0 <= number < 1 << 62


Untrusted = Any
"""A value from a file: of any type until it has been checked."""


def _view(storage: Untrusted, dtype: torch.dtype, offset: Untrusted, size: Untrusted, stride: Untrusted) -> Tensor:
    """Rebuild a tensor over some of a storage, and check that it is within it."""
    require(type(storage) is Storage and type(size) is tuple and type(stride) is tuple)
    require(all(map(is_count, (offset, *size, *stride))) and len(size) == len(stride))
    numbers = storage.numbers
    last = offset + sum(map(mul, size, stride)) - sum(stride)
    require(0 in size or (last + 1) * dtype.itemsize <= numbers.nbytes())  # or it would show what follows
    require_modest(prod(size) * dtype.itemsize, numbers.nbytes())
    return torch.empty(0, dtype=dtype, device="cpu").set_(numbers, offset, size, stride)


def _tensor(
    storage: Untrusted,
    offset: Untrusted,
    size: Untrusted,
    stride: Untrusted,
    requires_grad: Untrusted = False,  # noqa: ARG001, FBT002 - torch's arguments, by their places
    hooks: Untrusted = None,
    metadata: Untrusted = None,
) -> Tensor:
    """Rebuild a tensor from its storage, of the dtype of that."""
    require(type(storage) is Storage and not hooks)
    return _marked(_view(storage, storage.dtype, offset, size, stride), metadata)


def _tensor_of_dtype(
    storage: Untrusted,
    offset: Untrusted,
    size: Untrusted,
    stride: Untrusted,
    requires_grad: Untrusted,  # noqa: ARG001
    hooks: Untrusted,
    dtype: Untrusted,
    metadata: Untrusted = None,
) -> Tensor:
    """Rebuild a tensor from its storage, of a dtype of its own."""
    require(isinstance(dtype, torch.dtype) and not hooks)
    return _marked(_view(storage, dtype, offset, size, stride), metadata)


def _marked(tensor: Tensor, metadata: Untrusted) -> Tensor:
    """A rebuilt tensor whose numbers are to be conjugated or negated, as torch marks views of complex numbers."""
    if not metadata:
        return tensor
    require(type(metadata) is dict and metadata.keys() <= {"conj", "neg"})
    require(all(type(each) is bool for each in metadata.values()))
    require(not metadata.get("conj") or tensor.is_complex())
    tensor = tensor.conj().resolve_conj() if metadata.get("conj") else tensor
    return -tensor if metadata.get("neg") else tensor


def _quantized(
    storage: Untrusted, offset: Untrusted, size: Untrusted, stride: Untrusted, quantizer: Untrusted, *_: Untrusted
) -> object:
    """Rebuild a quantized tensor from its storage, when its place there and its quantizer are sound."""
    require(type(storage) is Storage and type(quantizer) is tuple and len(quantizer) > 1)
    same_size = torch.int32 if storage.dtype.itemsize == torch.int32.itemsize else torch.int8
    _view(storage, same_size, offset, size, stride)  # it has to lie in its storage
    scheme, *numbers_of = quantizer
    rebuild: Any = torch._utils._rebuild_qtensor  # noqa: SLF001 - what torch.load calls
    per_tensor = scheme == torch.per_tensor_affine
    require(per_tensor or scheme in (torch.per_channel_affine, torch.per_channel_affine_float_qparams))
    kinds = (float, int) if per_tensor else (torch.Tensor, torch.Tensor, int)
    require(len(numbers_of) == len(kinds) and all(map(isinstance, numbers_of, kinds)))
    kind: Any = torch.storage.TypedStorage
    typed = kind(wrap_storage=storage.numbers, dtype=storage.dtype, _internal=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch is about to give them up, which is no news of this file
        return rebuild(typed, offset, size, stride, quantizer, False, None)  # noqa: FBT003 - torch's argument


CALLS: dict[str, Callable[..., object]] = {
    **ODD_CALLS,
    **numpy_calls(tensor_of, OddTensor),
    f"{UTILS}_rebuild_tensor": _tensor,
    f"{UTILS}_rebuild_tensor_v2": _tensor,
    f"{UTILS}_rebuild_tensor_v3": _tensor_of_dtype,
    f"{UTILS}_rebuild_parameter": tensor_of_parameter,
    f"{UTILS}_rebuild_parameter_with_state": tensor_of_parameter,
    f"{UTILS}_rebuild_qtensor": _quantized,
    f"{UTILS}_rebuild_device_tensor_from_cpu_tensor": tensor_of_parameter,
    "torch._tensor._rebuild_from_type_v2": lambda *given: tensor_of_subclass(CALLS, *given),
    "torch.Size": size_of,
}
"""What makes tensors."""
CONSTANTS: dict[str, object] = {
    f"torch.{name}": value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype | torch.qscheme | torch.layout)
}
"""Names that stand for values of torch."""
