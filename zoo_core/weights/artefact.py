"""A file of weights on disk, and what vouches for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Artefact:
    """A file of weights on disk, and why it is believed.

    Attributes:
        path: Where it is.
        sha256: Its whole digest; ``""`` for a user's own file, which is not hashed.
        size: Its length in bytes.
        source: The url it came from, without passwords and keys.
        strength: What vouches for it: ``"proven"`` by a whole digest that was known before; ``"weak"``, a prefix, the
            whole digest being pinned since; ``"declared"`` by its server; ``"first-use"``; or ``"local"``.
        fetched: Whether bytes had to be moved, from the network or from a copy.
    """

    path: Path
    sha256: str
    size: int
    source: str
    strength: str
    fetched: bool
