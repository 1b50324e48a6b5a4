"""What any source answers, on the web or elsewhere, and how a request to it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reply:
    """What any source answers, on the web or elsewhere: which bytes of the file it sends, and the bytes.

    Attributes:
        start: Offset of the first byte in the whole file: where the request continues, or 0.
        total: Length of the whole file in bytes, when the source says.
        etag: Its strong ETag, or ``""``.
        blocks: The bytes.
        ranges: Whether the source says that it sends parts of the file too.
    """

    start: int
    total: int | None
    etag: str
    blocks: Iterator[bytes]
    ranges: bool = False


class Source(Protocol):
    """Any source, named by a url, that gives a reply with bytes: what all kinds of sources have."""

    url: str

    @property
    def route(self) -> str:
        """Where the last answer came from, in words, when that is not simply the host of the url."""

    def read(self, offset: int, etag: str, end: int | None = None) -> AbstractContextManager[Reply]:
        """Ask for the bytes from ``offset`` on, up to ``end`` if that is given; a source may send more."""

    def another(self) -> Source:
        """A source of the same file that can be read at the same time."""

    def close(self) -> None:
        """Let go of connections and files."""
