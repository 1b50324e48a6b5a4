"""Opening a checkpoint: a file, an index of shards, or a folder as a trainer wrote it."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import Unreadable
from zoo_core.utils.paths import expand, is_folder
from zoo_core.weights.checkpoint.candidates import Candidate, candidates, is_training, no_candidate
from zoo_core.weights.formats.memory_limits import TooMuchMemory, not_read, require_small_directory, require_small_json
from zoo_core.weights.formats.outline import outline_of
from zoo_core.weights.formats.plain_pickle import Foreign, NotPlain, Unpickler, require

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from torch import Tensor


INDEX = ".index.json"
"""How the name of an index ends, which says which shard each tensor is in."""
METADATA = ".metadata"
"""The name of the index of a folder of torch.distributed.checkpoint."""
_USUAL = (
    *("model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors", "pytorch_model.bin"),
    *("model.pt", "pytorch_model.pt", "mp_rank_00_model_states.pt", METADATA),
)
"""Files of weights in the folders of Hugging Face's Trainer, accelerate, DeepSpeed and torch, the likeliest first."""
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".npz")
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
_LATEST = "latest"
_LONGEST_NAME = 255
_LARGEST = 64 << 20
"""Bytes of the largest index."""


def file_in(path: Path) -> Path:
    """The file of weights to open in a folder that a trainer wrote; any other path is itself.

    Args:
        path: Of a file or a folder.

    Raises:
        Unreadable: The folder has none, or several.
    """
    if not is_folder(path):
        return path
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        raise Unreadable(f"{path} cannot be read", got=error.strerror or str(error), path=path) from error
    for name in _USUAL:
        if (path / name).is_file():
            return path / name
    if latest := _latest(path):
        return file_in(latest)
    every = [each for each in inside if each.is_file() and each.name.endswith((*_WEIGHTS, INDEX))]
    indexes = [each for each in every if each.name.endswith(INDEX)]
    one = indexes or every
    if len(one) == 1:
        return one[0]
    if shards_in(path):
        return path
    raise Unreadable(
        f"{path} is a folder with {'several files' if one else 'no file'} of weights",
        expected=f"one file, or one of {', '.join(_USUAL[:4])}",
        got=", ".join(each.name for each in one[:6]) or None,
        cause=_zero_cause(path) or _shard_cause(path),
        hint="give the path of one of them" if one else _next_step(path, inside),
        path=path,
    )


def shards_in(folder: Path) -> list[Path]:
    """The shards to open in a folder without an index; none where one is missing, or there are other weights."""
    named = _numbered(folder)
    sets = {(match[1], match[3], match[4]) for _, match in named}
    weights = [each for each in folder.iterdir() if each.name.endswith(_WEIGHTS)] if named else []
    whole = len(sets) == 1 and {int(match[2]) for _, match in named} == {*range(1, int(named[0][1][3]) + 1)}
    return [each for each, _ in named] if whole and len(named) == len(weights) == int(named[0][1][3]) else []


def _numbered(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """The shards to open in a folder, by the numbers in their names."""
    if not is_folder(folder):
        return []
    every = [(each, _SHARD.fullmatch(each.name)) for each in sorted(folder.iterdir()) if each.name.endswith(_WEIGHTS)]
    return [(each, match) for each, match in every if match]


def _shard_cause(path: Path) -> str | None:
    """Why a folder of shards cannot be opened: some are missing, and the index is too."""
    named = _numbered(path)
    return f"{len(named)} of {int(named[0][1][3])} shards are there, and no index of them" if named else None


def _latest(path: Path) -> Path | None:
    """The folder to open of the last step, as DeepSpeed names it in a file of one line."""
    try:
        with (path / _LATEST).open(encoding="utf-8") as opened:
            name = opened.read(_LONGEST_NAME).strip()
    except (OSError, ValueError):
        return None
    is_plain = name not in ("", ".", "..") and Path(name).name == name and "\0" not in name
    return path / name if is_plain and is_folder(path / name) and not (path / name / _LATEST).exists() else None


def _next_step(path: Path, inside: list[Path]) -> str:
    """What to open instead of a folder with no file of weights."""
    if (path / "saved_model.pb").exists():
        return "it is of TensorFlow: read it there, and save its arrays with numpy.savez"
    folders = [each.name for each in inside if is_folder(each) and not each.name.startswith(".")]
    return f"give the path of one of its folders: {', '.join(folders[-4:])}" if folders else "give the path of the file"


def _zero_cause(path: Path) -> str | None:
    """Why a folder of DeepSpeed's ZeRO cannot be opened: its shards have to be put together first."""
    is_zero = (path / "zero_to_fp32.py").exists() or any(path.glob("*zero_pp_rank*"))
    return "DeepSpeed's zero_to_fp32.py has not put its shards together yet" if is_zero else None


def _open_shards(index: Path) -> dict[str, Tensor]:
    """Open a sharded checkpoint: the tensors of all shards that an index names.

    Args:
        index: A ``*.index.json``, beside its shards.

    Raises:
        Unreadable: The index is malformed, a shard is missing, or a shard lacks a tensor.
    """
    from zoo_core.weights.formats.read import read_state_dict

    try:
        require(index.stat().st_size <= _LARGEST)
        text = index.read_bytes()
        require_small_json(text, len(text))
        places = json.loads(text)["weight_map"]
        require(isinstance(places, dict) and all(isinstance(each, str) for each in places.values()))
        names = sorted({*places.values()})
        require(all(Path(name).name == name for name in names))
    except TooMuchMemory as error:
        raise not_read(index, error) from error
    except (OSError, ValueError, KeyError, TypeError, NotPlain, RecursionError) as error:
        raise Unreadable(f"{index} is no index of shards", got=str(error) or None, path=index) from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise Unreadable(
            f"{index} names {len(names)} shards, and {len(missing)} of them are not there",
            got=", ".join(missing[:4]),
            hint="copy the whole folder",
            path=index,
        )
    result = {name: tensor for each in names for name, tensor in read_state_dict(index.parent / each).items()}
    if absent := sorted({*places} - {*result}):
        raise Unreadable(f"the shards of {index} lack {len(absent)} tensors", got=", ".join(absent[:4]), path=index)
    return result


def _open_unlisted(shards: list[Path]) -> dict[str, Tensor]:
    """Open a sharded checkpoint that has no index: the tensors of all its shards.

    Raises:
        Unreadable: A shard is broken, or two have a tensor of the same name.
    """
    from zoo_core.weights.formats.read import read_state_dict

    result: dict[str, Tensor] = {}
    for shard in shards:
        state = read_state_dict(shard)
        if twice := sorted({*state} & {*result}):
            raise Unreadable(f"{shard} has tensors of another shard", got=", ".join(twice[:4]), path=shard)
        result.update(state)
    return result


def _open_distributed(metadata: Path) -> dict[str, Tensor]:
    """Open a folder that ``torch.distributed.checkpoint`` wrote: its tensors, each put together from its chunks.

    Args:
        metadata: The ``.metadata`` in it.

    Raises:
        Unreadable: It is broken, or a chunk is missing.
    """
    from zoo_core.weights.formats.rebuild import CALLS, CONSTANTS

    try:
        require(metadata.stat().st_size <= _LARGEST)
        data = metadata.read_bytes()
        content = Unpickler(data, calls=CALLS, constants=CONSTANTS, budget=len(data)).load()
        return dict(_tensors(content, metadata.parent))
    except Exception as error:  # a broken file can make the reader raise anything
        raise Unreadable(
            f"{metadata.parent} is a broken folder of torch.distributed.checkpoint",
            got=f"{type(error).__name__}: {error!s:.200}",
            done="nothing in it was run",
            hint="copy the whole folder again",
            path=metadata.parent,
        ) from error


def _tensors(content: Any, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an opened folder of ``torch.distributed.checkpoint``, each with its name."""
    import torch

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
    """Open one chunk of a tensor in a distributed checkpoint: a file of ``torch.save`` within a larger one."""
    from zoo_core.weights.formats.torch_zip import read_plain

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


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: all that it holds, and the state dicts in it.

    Attributes:
        path: Of the file, or of the folder.
        content: All of it, as it was read.
        candidates: The state dicts in it, the likeliest first.
        mapped: Whether tensors are mapped from a file that others may write to.
    """

    path: Path
    content: object
    candidates: tuple[Candidate, ...]
    mapped: bool = False


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: a file, an index of shards, or a folder.

    Args:
        path: Of a file, of an index of shards, or of a folder with one.

    Raises:
        Unreadable: It cannot be read, or holds no tensors by name.
    """
    file = file_in(expand(path))
    content, mapped = _content(file)
    result = candidates(content)
    if not result:
        raise no_candidate(content, file)
    return Checkpoint(file, content, tuple(result), mapped)


def open_outline(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint with names, shapes and dtypes alone, where these can be read without torch.

    Raises:
        Unreadable: As :func:`open_checkpoint` says.
    """
    file = expand(path)
    content = outline_of(file)
    result = candidates(content) if content is not None else ()
    return Checkpoint(file, content, tuple(result)) if result else open_checkpoint(path)


def _content(file: Path) -> tuple[object, bool]:
    """What an opened checkpoint holds, and whether tensors are mapped from its file."""
    from zoo_core.weights.formats.read import read_whole

    if file.name.endswith(INDEX):
        return _open_shards(file), True
    if shards := shards_in(file):
        return _open_unlisted(shards), True
    if file.name == METADATA:
        every = _open_distributed(file)
        # an optimizer's state is beside the model's, by names that begin with its key
        return {name: tensor for name, tensor in every.items() if not is_training(name.partition(".")[0])}, False
    return read_whole(file)
