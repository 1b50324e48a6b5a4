"""What a file holds by names, shapes and dtypes, read without torch: to say what a file is before torch is there.

Safetensors and what ``torch.save`` writes today are read so; of their numbers not one is looked at.
"""

from __future__ import annotations

import json
import stat
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from zoo_core.weights.formats import sniff
from zoo_core.weights.formats.memory_limits import LONGEST_HEADER, require_small_directory, require_small_json
from zoo_core.weights.formats.numpy_arrays import numpy_calls
from zoo_core.weights.formats.plain_pickle import Name, Unpickler, require

_HEAD = 512
BUDGET = 4
"""How often the bytes of a file may be charged for: as text, as the bytes in it, and as the numbers of an array."""
STORAGES = {
    "Double": ("float64", 8),
    "Float": ("float32", 4),
    "Half": ("float16", 2),
    "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8),
    "Int": ("int32", 4),
    "Short": ("int16", 2),
    "Char": ("int8", 1),
    "Byte": ("uint8", 1),
    "Bool": ("bool", 1),
    "ComplexDouble": ("complex128", 16),
    "ComplexFloat": ("complex64", 8),
    "QInt8": ("qint8", 1),
    "QUInt8": ("quint8", 1),
    "QInt32": ("qint32", 4),
    "Untyped": ("uint8", 1),
}
"""Dtypes, and bytes of a number, by the name before ``Storage``: ``FloatStorage`` holds float32. The numbers of an
untyped one are bytes until a tensor says what they are."""
_SAFETENSORS = {
    **{
        f"{letter}{bits}": f"{word}{bits}" for letter, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True)
class Outline:
    """The outline of a tensor: shape and dtype, without its numbers.

    Attributes:
        shape: Its size.
        dtype: The name of its dtype, as ``"float32"``.
    """

    shape: tuple[int, ...]
    dtype: str

    def dim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def numel(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    def is_floating_point(self) -> bool:
        """Whether its numbers have fractions."""
        return "float" in self.dtype


class OddTensor:
    """A tensor in a file, or in its outline, that is not plain numbers, such as a shard of one.

    Attributes:
        kind: What it is, in words.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def is_tensor(value: object) -> bool:
    """Whether it is a tensor of torch, or an outline in the place of one."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return isinstance(value, Outline) or (tensor is not None and isinstance(value, tensor))


def outline_of(file: Path) -> object | None:
    """The outline of a file, with shapes in place of tensors; None for one that only torch reads or that is broken.

    Example:
        >>> import tempfile, pathlib, torch
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.pth")
        >>> torch.save({"fc.bias": torch.zeros(2), "epoch": 3}, path)
        >>> outline_of(path)
        {'fc.bias': Outline(shape=(2,), dtype='float32'), 'epoch': 3}
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return None
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
        if sniff.is_safetensors(head):
            return _safetensors(file)
        return _archive(file, head) if sniff.is_zip(head) else None
    except Exception:  # noqa: BLE001 - a broken file can raise anything, and the reader of tensors says what is wrong
        return None


def _safetensors(file: Path) -> dict[str, Outline]:
    """The outline of a safetensors file, from its header alone."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        require(length <= LONGEST_HEADER)
        text = opened.read(length)
    require_small_json(text, file.stat().st_size)
    header = json.loads(text)
    header.pop("__metadata__", None)
    require(file.stat().st_size == 8 + length + max((each["data_offsets"][1] for each in header.values()), default=0))
    places = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {name: Outline(size_of(each["shape"]), _SAFETENSORS[each["dtype"]]) for name, each in places}


def _archive(file: Path, head: bytes) -> object:
    """The outline of a zip archive that ``torch.save`` wrote, from its pickle alone."""
    require_small_directory(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
        require(sniff.describe_file(head, file.name, members) not in sniff.NEXT_STEPS)
        root = members[0].partition("/")[0]
        program = archive.getinfo(f"{root}/data.pkl")
        require(program.compress_type == zipfile.ZIP_STORED and program.file_size <= file.stat().st_size)

        def storage(said: Any) -> tuple[str, int]:
            require(type(said) is tuple and len(said) in (5, 6) and said[0] == "storage")
            dtype, width = STORAGES[str(said[1]).rpartition(".")[2].removesuffix("Storage")]
            require(archive.getinfo(f"{root}/data/{said[2]}").file_size == said[4] * width)
            return dtype, width * said[4]

        return Unpickler(
            archive.read(program), calls=_CALLS, persistent=storage, budget=BUDGET * file.stat().st_size
        ).load()


def size_of(values: Any = ()) -> tuple[int, ...]:
    """The shape of a tensor or of its outline, from a file and checked."""
    require(type(values) in (tuple, list) and all(type(each) is int and 0 <= each < 1 << 62 for each in values))
    return tuple(values)


def _outline_of_tensor(storage: Any, _offset: object, size: object, *_: object) -> Outline:
    """The outline of a tensor that a pickle describes, of the dtype of its storage."""
    require(type(storage) is tuple)
    return Outline(size_of(size), storage[0])


def _outline_of_dtype(*values: Any) -> Outline:
    """The outline of a tensor that a pickle describes, of a dtype of its own."""
    require(len(values) > 6)  # noqa: PLR2004 - storage, offset, size, stride, gradient, hooks, dtype
    return Outline(size_of(values[2]), str(values[6]).removeprefix("torch."))


def tensor_of_parameter(data: object, *_: object) -> object:
    """The tensor of a parameter, or its outline, in place of it."""
    return data


def _odd(kind: str) -> Callable[..., OddTensor]:
    """A call that gives, in an outline, an odd tensor of that kind."""
    return lambda *_: OddTensor(kind)


def wrapped(kind: object, *_: object) -> OddTensor:
    """The odd tensor that an outline has for one of a class of its own, such as a DTensor."""
    name = kind if isinstance(kind, str) else getattr(kind, "name", "")
    short = str(name).rpartition(".")[2]
    is_shard = short == "DTensor"
    return OddTensor("DTensor, one process's shard of a tensor" if is_shard else f"tensor of the class {name!s:.80}")


def tensor_of_subclass(
    calls: Mapping[str, Callable[..., object]], function: object, kind: object, arguments: object, _state: object = None
) -> object:
    """The tensor of a class of its own, or its outline, where that is torch's parameter or buffer; else an odd tensor.

    Args:
        calls: What makes tensors or outlines, by the names that a pickle has for it.
        function: The name of what makes this one.
        kind: The name of its class.
        arguments: What the function is given.
    """
    known = calls.get(function) if type(function) is Name else None
    if known is None or type(arguments) is not tuple or str(kind) not in _PLAIN_CLASSES:
        return wrapped(kind)
    return known(*arguments)


_PLAIN_CLASSES = {"torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Tensor"}
UTILS = "torch._utils."
ODD_CALLS: dict[str, Callable[..., OddTensor]] = {
    f"{UTILS}_rebuild_sparse_tensor": _odd("sparse tensor"),
    f"{UTILS}_rebuild_sparse_csr_tensor": _odd("sparse tensor"),
    f"{UTILS}_rebuild_nested_tensor": _odd("nested tensor"),
    f"{UTILS}_rebuild_meta_tensor_no_storage": _odd("meta tensor, which has a shape and no numbers"),
    f"{UTILS}_rebuild_wrapper_subclass": wrapped,
    f"{UTILS}_rebuild_device_tensor_from_numpy": _odd("tensor of another device"),
}
"""What makes tensors that are none of plain numbers."""
_CALLS: dict[str, Callable[..., object]] = {
    **ODD_CALLS,
    **numpy_calls(lambda numbers: Outline(numbers.shape, numbers.dtype), OddTensor),
    f"{UTILS}_rebuild_tensor": _outline_of_tensor,
    f"{UTILS}_rebuild_tensor_v2": _outline_of_tensor,
    f"{UTILS}_rebuild_tensor_v3": _outline_of_dtype,
    f"{UTILS}_rebuild_parameter": tensor_of_parameter,
    f"{UTILS}_rebuild_parameter_with_state": tensor_of_parameter,
    f"{UTILS}_rebuild_qtensor": _odd("quantised tensor"),
    f"{UTILS}_rebuild_device_tensor_from_cpu_tensor": tensor_of_parameter,
    "torch._tensor._rebuild_from_type_v2": lambda *given: tensor_of_subclass(_CALLS, *given),
    "torch.Size": size_of,
}
