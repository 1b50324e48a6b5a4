"""The request for a file, handed unchanged from the caller to the transport, and the artefact that answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.weights import digest as digests
from zoo_core.weights.transport.policy import Policy
from zoo_core.weights.transport.urls import file_name

if TYPE_CHECKING:
    from zoo_core.weights.trust.rules import Trust


@dataclass(frozen=True)
class Request:
    """The request for a file: what is to be fetched, from where to where, and how to know it.

    Attributes:
        name: What to call it in messages: ``family/name@tag``, or its url.
        urls: Where it is, in the order to try.
        sha256: The whole digest, a prefix of it, or ``""`` to accept the first bytes that come.
        folder: Where the partial file goes; on one file system with the place of the final one.
        place: The final path for a file of some digest and name.
        file: Its plain file name; that of its first url where it is left out.
        strength: What vouches for bytes of that digest, as in :class:`Artefact`; a whole one proves them where this is
            left out.
        size: Its length in bytes, when known.
        read_only: Whether the final file may not be written.
        trust: ``"first-use"`` takes what comes, also over plain http.
        progress: Whether to show progress; None means as the settings and the terminal say.
        policy: How patient to be.

    Example:
        >>> from pathlib import Path
        >>> request = Request("net", ("file:///net.pth",), "5c106cde", folder=Path(), place=Path)
        >>> request.strength, request.stem
        ('weak', 'net-5c106cde.pth')
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    _: KW_ONLY
    folder: Path
    place: Callable[[str, str], Path]
    file: str = ""
    strength: str = ""
    size: int | None = None
    read_only: bool = False
    trust: Trust | None = None
    progress: bool | None = False
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", self.file or file_name(self.urls[0]))
        proof = "proven" if digests.is_full(self.sha256) else "weak"
        object.__setattr__(self, "strength", self.strength or proof)

    def final(self, digest: str) -> Path:
        """Where its bytes belong, when they have that digest."""
        return self.place(digest, self.file)

    @property
    def proven(self) -> bool:
        """Whether bytes may come from anywhere: their whole digest is known, or the user takes what comes."""
        return self.trust is not None or digests.is_full(self.sha256)

    @property
    def stem(self) -> str:
        """What its partial files and its lock are named after, and no other request's in the same folder."""
        stem, dot, suffix = self.file.rpartition(".")
        unknown = "unknown-" + hashlib.sha256("\n".join(self.urls).encode()).hexdigest()[:16]
        digest = self.sha256[:16] or unknown
        return f"{stem}-{digest}.{suffix}" if stem and dot else f"{self.file}-{digest}"


@dataclass(frozen=True)
class Artefact:
    """What answers a request, handed back to the caller: a file of weights on disk, and why it is believed.

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
