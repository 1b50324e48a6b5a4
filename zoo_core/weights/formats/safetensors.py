"""Safetensors: any such file read, and files written in which every tensor begins at a multiple of 64 bytes.

The format promises alignment to 8 bytes only, and kernels that meet misaligned numbers take another path and differ in
the last digit. The header is padded, and fillers stand between tensors where they are needed: any reader of safetensors
reads such a file, and finds the fillers in it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.errors import Unreadable
from zoo_core.utils.paths import in_utf8
from zoo_core.weights.formats.memory_limits import lacks_memory, not_read, require_small_header
from zoo_core.weights.formats.plain_pickle import NotPlain

ALIGNMENT = 64
_NAMES = "zoo.names"
_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def misaligned(state: Mapping[str, Tensor]) -> int:
    """How many bytes of a state dict are not aligned: their tensors do not begin at a multiple of 64.

    Example:
        >>> misaligned({"weight": torch.zeros(4)[1:]})
        12
    """
    plain = [tensor for tensor in state.values() if tensor.layout is torch.strided]
    return sum(tensor.nbytes for tensor in plain if tensor.data_ptr() % ALIGNMENT)


def plan(state: Mapping[str, Tensor]) -> list[memoryview | bytes] | None:
    """The parts of a safetensors file with aligned tensors, header first; None when the format cannot hold them.

    Tensors that are one and the same are written once, and found under all their names by :func:`read_aligned`.

    Args:
        state: Tensor name to tensor, on the CPU. The parts share its memory where they can.
    """
    plain = all(tensor.dtype in _KINDS and tensor.layout is torch.strided for tensor in state.values())
    if not plain or "__metadata__" in state:
        return None
    own, names = _each_once(state)
    memory = {held.data_ptr(): held.nbytes() for held in (tensor.untyped_storage() for tensor in own.values())}
    if sum(tensor.nbytes for tensor in own.values()) > sum(memory.values()):
        return None  # views that overlap would take more room apart than they do together
    header: dict[str, object] = {"__metadata__": {_NAMES: json.dumps(names)}}
    parts: list[memoryview | bytes] = []
    end = 0
    # those that need no filler first, so that there are few
    for name, tensor in sorted(own.items(), key=lambda item: item[1].nbytes % ALIGNMENT != 0):
        if filler := -end % ALIGNMENT:
            header[_filler(state, len(parts))] = _entry("U8", (filler,), end, filler)
            parts.append(bytes(filler))
            end += filler
        header[name] = _entry(_KINDS[tensor.dtype], tensor.shape, end, tensor.nbytes)
        parts.append(bytes_of(tensor))
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *parts]


def read_aligned(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file that was written aligned, mapped, under their names and in order.

    Raises:
        Unreadable: It is broken.
        KeyError, ValueError: It is another file.
    """
    tensors, metadata = read_safetensors(path)
    names: dict[str, str] = json.loads(metadata[_NAMES])
    return {name: tensors[stored] for name, stored in names.items()}


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row, as safetensors have them; shared with it where they can be."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    numbers: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(numbers)


def _each_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors to write as safetensors, each once though it has several names, and which name each is found under."""
    own: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    names: dict[str, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        names[name] = first.setdefault(place, name)
        own.setdefault(names[name], tensor)
    return own, names


def _entry(kind: str, shape: tuple[int, ...], start: int, size: int) -> dict[str, object]:
    """The entry of a tensor, or of a filler that aligns the next one, in the header of a safetensors file."""
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + size]}


def _filler(state: Mapping[str, Tensor], number: int) -> str:
    """A name for a filler that aligns the next tensor, which no tensor has."""
    name = f"zoo.filler.{number}"
    while name in state:
        name += "_"
    return name


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file, mapped, and its metadata.

    Raises:
        Unreadable: It is broken, or its header would take far more memory than the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # safetensors takes names in UTF-8 only; a file of another name is read by its number.
        with file.open("rb") as numbered:
            require_small_header(numbered)
        with file.open("rb") as numbered, safe_open(in_utf8(file, numbered.fileno()), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.offset_keys()}, opened.metadata() or {}
    except (SafetensorError, NotPlain, MemoryError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if lacks_memory(error):
            raise not_read(file, error) from error
        raise Unreadable(f"{file} is a broken safetensors file", cause=str(error), path=file) from error
