"""What the typed storages of torch are called in its files, old and new: ``FloatStorage`` holds float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from zoo_core.weights.formats.outline import STORAGES
from zoo_core.weights.formats.plain_pickle import Name, require

DTYPES: dict[str, torch.dtype] = {word: getattr(torch, name) for word, (name, _) in STORAGES.items()}
"""Dtypes by the name before ``Storage``; the numbers of an untyped one are bytes until a tensor says what they are."""


class Storage:
    """Numbers in a file, of which tensors are views.

    Args:
        numbers: The bytes.
        dtype: Of the numbers.
    """

    __slots__ = ("dtype", "numbers")

    def __init__(self, numbers: torch.UntypedStorage, dtype: torch.dtype) -> None:
        self.numbers, self.dtype = numbers, dtype


class StorageId(NamedTuple):
    """What a persistent id says of a storage.

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


def storage_id(said: Any) -> StorageId:  # noqa: ANN401 - a value from a file
    """What the tuple of a persistent id means.

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
    """The dtype that the name of a typed storage stands for.

    Raises:
        NotPlain: It is the name of something else.
    """
    module, _, name = str(kind).rpartition(".")
    word = name.removesuffix("Storage").removesuffix("Tensor")
    require(type(kind) is Name and module in ("torch", "torch.cuda", "torch.storage") and word in DTYPES)
    return DTYPES[word]


def is_count(number: object) -> bool:
    """Whether it is an integer that can count the numbers in a file."""
    return type(number) is int and 0 <= number < 1 << 62
