"""Folders as ``torch.distributed.checkpoint`` writes them: an index of the chunks of each tensor, and their files."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.errors import Unreadable
from zoo_core.weights.formats.memory_limits import lacks_memory, not_read, require_small_directory
from zoo_core.weights.formats.plain_pickle import Foreign, Unpickler, require
from zoo_core.weights.formats.rebuild_tensors import CALLS, CONSTANTS
from zoo_core.weights.formats.torch_zip import read_plain

_LARGEST = 64 << 20
"""Bytes of the largest index."""


def read_distributed(metadata: Path) -> dict[str, Tensor]:
    """Read a folder that ``torch.distributed.checkpoint`` wrote: its tensors, each put together from its chunks.

    Args:
        metadata: The ``.metadata`` in it.

    Raises:
        Unreadable: It is broken, or a chunk is missing.
    """
    try:
        require(metadata.stat().st_size <= _LARGEST)
        data = metadata.read_bytes()
        content = Unpickler(data, calls=CALLS, constants=CONSTANTS, budget=len(data)).load()
        return dict(_tensors(content, metadata.parent))
    except Exception as error:  # a broken file can make the reader raise anything
        if lacks_memory(error):
            raise not_read(metadata.parent, error) from error
        raise Unreadable(
            f"{metadata.parent} is a broken folder of torch.distributed.checkpoint",
            got=f"{type(error).__name__}: {error!s:.200}",
            done="nothing in it was run",
            hint="copy the whole folder again",
            path=metadata.parent,
        ) from error


def _tensors(content: Any, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder of ``torch.distributed.checkpoint``, each with its name."""
    sizes = {name: each.state for name, each in content.state["state_dict_metadata"].items()}
    chunks: dict[str, list[tuple[tuple[int, ...], dict[str, Any]]]] = {}
    left = {each.name: each.stat().st_size for each in folder.iterdir()}
    for place, info in content.state["storage_data"].items():
        require(type(place) is Foreign and type(info) is Foreign and type(info.state["length"]) is int)
        left[info.state["relative_path"]] -= info.state["length"]
        chunks.setdefault(place.state["fqn"], []).append((place.state.get("offset"), info.state))
    require(all(size >= 0 for size in left.values()), "its chunks are longer together than their file")
    for name, parts in chunks.items():
        if not isinstance(sizes[name], dict) or "size" not in sizes[name]:
            continue  # bytes of some object, and no tensor
        read = [(offset or (), _chunk(folder, info)) for offset, info in parts]
        if len(read) == 1:
            yield name, read[0][1]
            continue
        size = tuple(sizes[name]["size"])
        require(sum(part.numel() for _, part in read) == torch.Size(size).numel())
        whole = torch.empty(size, dtype=read[0][1].dtype, device="cpu")
        for offset, part in read:
            whole[tuple(slice(at, at + length) for at, length in zip(offset, part.shape, strict=True))] = part
        yield name, whole


def _chunk(folder: Path, info: dict[str, Any]) -> Tensor:
    """Read one chunk of a tensor in a distributed checkpoint: a file of ``torch.save`` within a larger one."""
    name, offset, length = info["relative_path"], info["offset"], info["length"]
    require(Path(name).name == name and isinstance(offset, int) and isinstance(length, int))
    source = folder / name
    require(offset >= 0 and length >= 0 and offset + length <= source.stat().st_size)
    with tempfile.TemporaryDirectory() as scratch, source.open("rb") as opened:
        part = Path(scratch, "chunk.pt")
        opened.seek(offset)
        part.write_bytes(opened.read(length))
        require_small_directory(part)
        with zipfile.ZipFile(part) as archive:
            tensor: Any = read_plain(part, archive)[0]
        result: Tensor = tensor.clone()
        return result
