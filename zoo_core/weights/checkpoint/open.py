"""Opening a checkpoint: a file, an index of shards, or a folder as a trainer wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.utils.paths import expand
from zoo_core.weights.checkpoint.candidates import Candidate, candidates, is_training, no_state_dict
from zoo_core.weights.formats.outline import outline_of

if TYPE_CHECKING:
    import os
    from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

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
    """What a checkpoint holds.

    Args:
        path: Of a file, of an index of shards, or of a folder with one.

    Raises:
        Unreadable: It cannot be read, or holds no tensors by name.
    """
    from zoo_core.weights.checkpoint.folder import file_in

    file = file_in(expand(path))
    content, mapped = _content(file)
    result = candidates(content)
    if not result:
        raise no_state_dict(content, file)
    return Checkpoint(file, content, tuple(result), mapped)


def open_outline(path: str | os.PathLike[str]) -> Checkpoint:
    """The same with names, shapes and dtypes in place of tensors, where these can be read without torch.

    Raises:
        Unreadable: As :func:`open_checkpoint` says.
    """
    file = expand(path)
    content = outline_of(file)
    result = candidates(content) if content is not None else ()
    return Checkpoint(file, content, tuple(result)) if result else open_checkpoint(path)


def _content(file: Path) -> tuple[object, bool]:
    """What it holds, and whether tensors are mapped from it."""
    from zoo_core.weights.checkpoint.folder import INDEX, METADATA, read_distributed, read_shards
    from zoo_core.weights.formats.read import read_whole

    if file.name.endswith(INDEX):
        return read_shards(file), True
    if file.name == METADATA:
        every = read_distributed(file)
        # an optimizer's state is beside the model's, by names that begin with its key
        return {name: tensor for name, tensor in every.items() if not is_training(name.partition(".")[0])}, False
    return read_whole(file)
