"""Read a checkpoint: a file of weights, an index of shards, or a folder as a trainer wrote it.

No code in a file is ever run. What needs torch is imported when it is needed, so that an outline is read without it.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import Unreadable
from zoo_core.utils.paths import expand, is_file, is_folder
from zoo_core.weights.checkpoint.candidates import Candidate, candidates, is_training
from zoo_core.weights.checkpoint.unsupported import no_candidate, no_single_file
from zoo_core.weights.formats import sniff
from zoo_core.weights.formats.memory_limits import (
    TooMuchMemory,
    lacks_memory,
    not_read,
    require_small_directory,
    require_small_json,
)
from zoo_core.weights.formats.numpy_arrays import NotNumbers, read_numpy_archive
from zoo_core.weights.formats.outline import is_tensor, outline_of
from zoo_core.weights.formats.plain_pickle import NotPlain, require

if TYPE_CHECKING:
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
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".npz")
"""How the names of files of weights end in a folder."""
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
_LATEST = "latest"
_LONGEST_NAME = 255
_LARGEST = 64 << 20
"""Bytes of the largest index."""
_HEAD = 512


def file_in(path: Path) -> Path:
    """The file of a checkpoint to read, where a path is a folder as a trainer wrote it; any other path is itself.

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
    if latest := _latest_folder(path):
        return file_in(latest)
    every = [each for each in inside if each.is_file() and each.name.endswith((*WEIGHTS, INDEX))]
    indexes = [each for each in every if each.name.endswith(INDEX)]
    one = indexes or every
    if len(one) == 1:
        return one[0]
    if shards_in(path):
        return path
    raise no_single_file(path, inside, indexes or every, shards=_numbered_shards(path), usual=_USUAL[:4])


def shards_in(folder: Path) -> list[Path]:
    """Shards that a checkpoint is read from without an index; none where one is missing, or there are other weights."""
    named = _numbered_shards(folder)
    sets = {(match[1], match[3], match[4]) for _, match in named}
    weights = [each for each in folder.iterdir() if each.name.endswith(WEIGHTS)] if named else []
    whole = len(sets) == 1 and {int(match[2]) for _, match in named} == {*range(1, int(named[0][1][3]) + 1)}
    return [each for each, _ in named] if whole and len(named) == len(weights) == int(named[0][1][3]) else []


def _numbered_shards(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """The shards of a checkpoint to read in a folder, by the numbers in their names."""
    if not is_folder(folder):
        return []
    every = [(each, _SHARD.fullmatch(each.name)) for each in sorted(folder.iterdir()) if each.name.endswith(WEIGHTS)]
    return [(each, match) for each, match in every if match]


def _latest_folder(path: Path) -> Path | None:
    """Which folder is read in that of a checkpoint of DeepSpeed: the last step's, which a file of one line names."""
    try:
        with (path / _LATEST).open(encoding="utf-8") as opened:
            name = opened.read(_LONGEST_NAME).strip()
    except (OSError, ValueError):
        return None
    is_plain = name not in ("", ".", "..") and Path(name).name == name and "\0" not in name
    return path / name if is_plain and is_folder(path / name) and not (path / name / _LATEST).exists() else None


def shards_by_tensor(index: Path) -> dict[str, str]:
    """Which shard of a checkpoint each tensor is in, by the names in an index that is read.

    Args:
        index: A ``*.index.json``.

    Raises:
        Unreadable: It is malformed.
    """
    try:
        require(index.stat().st_size <= _LARGEST)
        text = index.read_bytes()
        require_small_json(text, len(text))
        places = json.loads(text)["weight_map"]
        require(isinstance(places, dict) and all(isinstance(each, str) for each in places.values()))
        require(all(Path(name).name == name for name in places.values()))
    except TooMuchMemory as error:
        raise not_read(index, error) from error
    except (OSError, ValueError, KeyError, TypeError, NotPlain, RecursionError) as error:
        raise Unreadable(f"{index} is no index of shards", got=str(error) or None, path=index) from error
    return dict(places)


def _open_shards(index: Path) -> dict[str, Tensor]:
    """Read a sharded checkpoint: the tensors of all shards that an index names.

    Args:
        index: A ``*.index.json``, beside its shards.

    Raises:
        Unreadable: The index is malformed, a shard is missing, or a shard lacks a tensor.
    """
    places = shards_by_tensor(index)
    names = sorted({*places.values()})
    missing = [name for name in names if not is_file(index.parent / name)]
    if missing:
        raise Unreadable(
            f"{index} names {len(names)} shards, and {len(missing)} of them are not there",
            got=", ".join(missing[:4]),
            hint="copy the whole folder",
            path=index,
        )
    result: dict[str, Tensor] = {}
    for each in names:
        listed = {name for name, place in places.items() if place == each}
        state = _tensors_of_shard(index.parent / each, listed)
        # a tensor may be in a shard that the index does not name for it, as where an older one was left there
        _add(
            result,
            {name: value for name, value in state.items() if places.get(name, each) == each},
            index.parent / each,
        )
    if absent := sorted({*places} - {*result}):
        raise Unreadable(f"the shards of {index} lack {len(absent)} tensors", got=", ".join(absent[:4]), path=index)
    return result


def _tensors_of_shard(shard: Path, listed: set[str]) -> Mapping[str, Tensor]:
    """Read a shard of a checkpoint, by the names that its index lists, whatever prefix they have."""
    content = read_whole(shard)[0]
    return content if isinstance(content, Mapping) and listed <= content.keys() else read_state_dict(shard)


def _open_unlisted(shards: list[Path]) -> dict[str, Tensor]:
    """Read a sharded checkpoint that has no index: the tensors of all its shards.

    Raises:
        Unreadable: A shard is broken, or two have a tensor of the same name.
    """
    result: dict[str, Tensor] = {}
    for shard in shards:
        _add(result, read_state_dict(shard), shard)
    return result


def _add(result: dict[str, Tensor], state: Mapping[str, Tensor], shard: Path) -> None:
    """Add the tensors of a shard to those of the checkpoint that were read before.

    Raises:
        Unreadable: One is there already, and nothing says which of the two is meant.
    """
    if twice := sorted(name for name in state if name in result and is_tensor(state[name])):
        raise Unreadable(f"{shard} has tensors of another shard", got=", ".join(twice[:4]), path=shard)
    result.update(state)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: all that it holds, and the state dicts in it.

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
    """Read a checkpoint: a file, an index of shards, or a folder.

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
    """Read a checkpoint, and what candidates are in it, by names, shapes and dtypes alone, where that needs no torch.

    Raises:
        Unreadable: As :func:`open_checkpoint` says.
    """
    file = expand(path)
    content = outline_of(file)
    result = candidates(content) if content is not None else ()
    return Checkpoint(file, content, tuple(result)) if result else open_checkpoint(path)


def _content(file: Path) -> tuple[object, bool]:
    """What a checkpoint that is read holds, and whether tensors are mapped from its file."""
    if file.name.endswith(INDEX):
        return _open_shards(file), True
    if shards := shards_in(file):
        return _open_unlisted(shards), True
    if file.name == METADATA:
        from zoo_core.weights.formats.torch_distributed import read_distributed

        every = read_distributed(file)
        # an optimizer's state is beside the model's, by names that begin with its key
        return {name: tensor for name, tensor in every.items() if not is_training(name.partition(".")[0])}, False
    return read_whole(file)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a file of weights by name, on the CPU, and mapped from the file where its format allows.

    Safetensors, numpy's archives and all that ``torch.save`` ever wrote are read as data. A state dict inside a wrapper
    such as ``{"state_dict": ..., "epoch": ...}`` is taken out, the averaged one (EMA) where there are two. Prefixes of
    wrappers are taken off: ``module.`` of data-parallel training where every name has it, and ``_orig_mod.`` of
    ``torch.compile`` and the like anywhere.

    Args:
        path: A ``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` or ``.npz`` file; its content decides, not its
            name.

    Returns:
        Tensors by name. Changing one does not change the file.

    Raises:
        Unreadable: The file is not there, not weights, broken, or needs code to be run; the message says what it is.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     torch.save({"state_dict": {"module.fc.bias": torch.zeros(2)}, "epoch": 3}, file.name)
        ...     read_state_dict(file.name)
        {'fc.bias': tensor([0., 0.])}
    """
    return read_and_tell(path)[0]


def read_and_tell(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], bool]:
    """Read a file of weights as :func:`read_state_dict` does; also whether its tensors are mapped from the file.

    Raises:
        Unreadable: As there.
    """
    from zoo_core.weights.checkpoint.choose import likeliest_candidate

    content, mapped = read_whole(path)
    return likeliest_candidate(content, path), mapped


def read_whole(path: str | os.PathLike[str]) -> tuple[object, bool]:
    """Read a weights file of any format, wrapper included; also whether its tensors are mapped from the file.

    Raises:
        Unreadable: The file is not there, broken, or no file of tensors.
    """
    file = expand(path)
    head = _first_bytes(file)
    if sniff.is_safetensors(head):
        from zoo_core.weights.formats.safetensors import read_safetensors

        return read_safetensors(file)[0], True
    return _pickled(file, head)


def may_hold_more(path: str | os.PathLike[str]) -> bool:
    """Whether reading a checkpoint may find more than tensors by name in its file, as its format allows.

    Raises:
        Unreadable: It is not there.
    """
    return not sniff.is_safetensors(_first_bytes(expand(path)))


def _first_bytes(file: Path) -> bytes:
    """Read the first bytes of a checkpoint's file, by which it is decided how the rest of it is read."""
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe could be read for ever
            is_folder = stat.S_ISDIR(mode)
            raise Unreadable(
                f"{file} is {'a folder' if is_folder else 'not a file'}",
                expected="a file of weights",
                hint="zoo.get(..., weights=FOLDER) takes one" if is_folder else "copy its content to a file",
                path=file,
            )
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise Unreadable(f"{file} cannot be read", got=error.strerror or str(error), path=file) from error


def _pickled(file: Path, head: bytes) -> tuple[object, bool]:
    """Read a file of weights that is no safetensors, by its first bytes, and say whether it is mapped."""
    from zoo_core.weights.formats.torch_legacy import read_stream, read_tar
    from zoo_core.weights.formats.torch_zip import read_plain

    members: list[str] = []
    try:
        if sniff.is_tar(head):
            with tarfile.open(file, mode="r:") as archive:
                members = archive.getnames()
            return read_tar(file), False
        if not sniff.is_zip(head):
            require(head[:1] == b"\x80")
            return read_stream(file), False
        require_small_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            if members and all(name.endswith(".npy") for name in members):  # as numpy.savez writes them
                return read_numpy_archive(file), False
            require(sniff.describe_file(head, file.name, members) not in sniff.NEXT_STEPS)
            return read_plain(file, archive)
    except Exception as error:  # a broken file can make the reader raise anything
        if lacks_memory(error):
            raise not_read(file, error) from error
        raise _unreadable(file, sniff.describe_file(head, file.name, members), error) from error


def _unreadable(file: Path, what: str, error: Exception) -> Unreadable:
    """The error for a file of weights, of whatever format, that cannot be read."""
    return Unreadable(
        f"{file} cannot be read as weights",
        expected="safetensors, a checkpoint of tensors that torch.save wrote, or an archive of numpy arrays",
        got=what,
        done="nothing in it was run",
        cause=_cause(what, error),
        hint=sniff.NEXT_STEPS.get(what, "take another copy of it; or save its state dict again as safetensors"),
        path=file,
    )


def _cause(what: str, error: Exception) -> str | None:
    """Why a file of weights, of whatever format, cannot be read, as far as is known."""
    if what in sniff.NEXT_STEPS:
        return None
    if isinstance(error, NotNumbers):
        return str(error)
    deeper = error.__cause__ or error
    reason = str(error) if isinstance(error, NotPlain) else ""
    return reason or f"its bytes make no sense as a checkpoint ({type(deeper).__name__})"
