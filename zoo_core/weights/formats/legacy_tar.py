"""Checkpoints as torch wrote them before 0.2: a tar archive of pickles. torch reads them only with code allowed to run.

The layout is that of ``legacy_load`` in torch/serialization.py: ``storages`` holds the numbers, ``tensors`` the shapes
over them, and ``pickle`` the object that was saved, with references to both.
"""

from __future__ import annotations

import pickle
import struct
import tarfile
from collections import OrderedDict
from typing import IO, TYPE_CHECKING, Any, cast

import torch

from zoo_core.weights.formats.storages import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class _Safe(pickle.Unpickler):
    """Knows ordered dicts and the names of tensor types, and nothing that could be called to any effect."""

    objects: dict[str, Tensor]

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class, or the dtype that a class name means
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        kind = name.removesuffix("Storage").removesuffix("Tensor")
        if module in ("torch", "torch.cuda") and kind in DTYPES:
            return DTYPES[kind]
        msg = f"{module}.{name} is not allowed"
        raise pickle.UnpicklingError(msg)

    def persistent_load(self, pid: Any) -> Tensor:  # noqa: ANN401 - whatever the pickle says
        key = str(pid[1] if isinstance(pid, tuple) and len(pid) > 1 else pid)
        return self.objects[key]


def read_tar(path: Path) -> object:
    """The object that was saved in an old tar checkpoint, its tensors on the CPU.

    Args:
        path: The archive; nothing is extracted from it to the disk.

    Raises:
        pickle.UnpicklingError: It holds more than tensors.
        OSError, ValueError, KeyError, RuntimeError, struct.error: It is not such a checkpoint, or a broken one.
    """
    with tarfile.open(path, mode="r:") as archive:
        objects = _storages(_member(archive, "storages"))
        objects.update(_tensors(_member(archive, "tensors"), objects))
        return _load(_member(archive, "pickle"), objects)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        msg = f"{name!r} in the archive is not a file"
        raise ValueError(msg)
    return file


def _load(file: IO[bytes], objects: dict[str, Tensor] | None = None) -> Any:  # noqa: ANN401 - whatever was pickled
    unpickler = _Safe(file)
    unpickler.objects = objects or {}
    return unpickler.load()


def _storages(file: IO[bytes]) -> dict[str, Tensor]:
    """Flat tensors by key."""
    found: dict[str, Tensor] = {}
    for _ in range(_load(file)):
        key, _location, dtype = _load(file)
        (count,) = struct.unpack("<q", file.read(8))
        found[str(key)] = _numbers(file, count, cast("torch.dtype", dtype))
    for key, root, offset, count in _load(file):
        found[str(key)] = found[str(root)][offset : offset + count]
    return found


def _numbers(file: IO[bytes], count: int, dtype: torch.dtype) -> Tensor:
    size = count * dtype.itemsize
    here = file.tell()
    left = file.seek(0, 2) - here
    file.seek(here)
    if not 0 <= size <= left:
        msg = f"a storage of {count} numbers in {left} bytes"
        raise ValueError(msg)
    if not count:
        return torch.empty(0, dtype=dtype, device="cpu")
    return torch.frombuffer(bytearray(file.read(size)), dtype=dtype)


def _tensors(file: IO[bytes], storages: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by key, as views of the storages."""
    found: dict[str, Tensor] = {}
    for _ in range(_load(file)):
        key, storage, _kind = _load(file)
        dimensions, _unused = struct.unpack("<ii", file.read(8))
        shape = struct.unpack(f"<{dimensions}q", file.read(8 * dimensions))
        stride = struct.unpack(f"<{dimensions}q", file.read(8 * dimensions))
        (offset,) = struct.unpack("<q", file.read(8))
        found[str(key)] = storages[str(storage)].as_strided(shape, stride, offset)
    return found
