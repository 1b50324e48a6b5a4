"""What a file is, by its first bytes: for the message about a file that is not what it should be."""

from __future__ import annotations

_TAR_MAGIC = slice(257, 262)


def describe(head: bytes) -> str:
    """What a file that begins with these bytes is, in a few words.

    Example:
        >>> describe(b"<!DOCTYPE html><html>")
        'an HTML page'
    """
    if not head:
        return "an empty file"
    if not any(head):
        return "a file of zero bytes"
    by_magic = (name for magic, name in _MAGIC if head.startswith(magic))
    return next(by_magic, None) or _structured(head) or _textual(head) or "a file of unknown kind"


def _structured(head: bytes) -> str | None:
    if is_tar(head):
        return "a tar archive"
    return "a safetensors file" if is_safetensors(head) else None


def _textual(head: bytes) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    by_start = (name for start, name in _TEXTS if text.startswith(start))
    return next(by_start, None) or ("plain text" if _is_text(head) else None)


_TEXTS = (
    (b"version https://git-lfs.github.com/spec/", "a git-lfs pointer, not the file it points to"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<head", "an HTML page"),
    (b"<body", "an HTML page"),
    (b"<", "an XML document"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
)
_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)


def is_zip(head: bytes) -> bool:
    """Whether it is a zip archive, as ``torch.save`` has written since version 1.6."""
    return head.startswith(b"PK\x03\x04")


def is_tar(head: bytes) -> bool:
    """Whether it is a tar archive, as torch wrote before 0.2."""
    return head[_TAR_MAGIC] == b"ustar"


def is_safetensors(head: bytes) -> bool:
    """Whether it begins as a safetensors file: the length of a JSON header in eight bytes, and the header."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 9 and 2 <= length <= 100_000_000 and head[8:9] == b"{"  # noqa: PLR2004 - the format's own limit


def _is_text(head: bytes) -> bool:
    try:
        return head[:-3].decode("utf-8").isprintable() or b"\n" in head
    except UnicodeDecodeError:
        return False
