"""Opening a checkpoint: a file, an index of shards, or a folder as a trainer wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.weights.checkpoint.candidates import Candidate, candidates, no_state_dict
from zoo_core.weights.formats.read import read_whole

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: Of the file, or of the folder.
        content: All of it, as it was read.
        candidates: The state dicts in it, the likeliest first.
    """

    path: Path
    content: object
    candidates: tuple[Candidate, ...]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """What a checkpoint holds.

    Args:
        path: Of a file.

    Raises:
        Unreadable: It cannot be read, or holds no tensors by name.
    """
    file = Path(path)
    content, _ = read_whole(file)
    found = candidates(content)
    if not found:
        raise no_state_dict(content, file)
    return Checkpoint(file, content, tuple(found))
