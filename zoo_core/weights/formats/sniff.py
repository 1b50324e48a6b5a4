"""What a file is, by its first bytes: for the message about a file that is not what it should be."""

from __future__ import annotations

from collections.abc import Sequence

_TAR_MAGIC = slice(257, 262)
_FIELDS = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")
"""What may come after the version in a model of ONNX: producer, domain, graph and so on."""
_NEWEST_ONNX = 31
"""Far beyond the versions of its format that there are."""


def describe(head: bytes) -> str:
    """What kind of file begins with these bytes, in a few words.

    Example:
        >>> describe(b"<!DOCTYPE html><html>")
        'an HTML page'
    """
    if not head:
        return "an empty file"
    if not any(head):
        return "a file of zero bytes"
    if head.startswith(b"\x80") and b"joblib.numpy_pickle" in head:
        return "a pickle of joblib"
    by_magic = (name for magic, name in _MAGIC if head.startswith(magic))
    return next(by_magic, None) or _structured(head) or _textual(head) or "a file of unknown kind"


def _structured(head: bytes) -> str | None:
    """What kind of binary file it is, by signs that are not simply its first bytes."""
    if is_tar(head):
        return "a tar archive"
    if is_safetensors(head):
        return "a safetensors file"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[:1] == b"\x08" and head[2:3] in _FIELDS:  # a message of protocol buffers, version first
        return "a TensorFlow SavedModel" if head[1] == 1 else "an ONNX model" if head[1] <= _NEWEST_ONNX else None
    return None


def _textual(head: bytes) -> str | None:
    """What kind of text a file that begins with these bytes is, such as an HTML page."""
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
NEXT_STEPS = {
    "a TorchScript archive": "where you trust it, torch.save(torch.jit.load(FILE).state_dict(), NEW)",
    "an archive of torch.export": "where you trust it, torch.save(torch.export.load(FILE).state_dict, NEW)",
    "a Keras archive": "read it with Keras, and save its arrays with numpy.savez",
    "an HDF5 (Keras) file": "read it with h5py or Keras, and save its arrays with numpy.savez",
    "a TensorFlow SavedModel": "read it with TensorFlow, and save its arrays with numpy.savez",
    "a TensorFlow checkpoint": "tf.train.load_checkpoint reads its arrays; save them with numpy.savez",
    "a TensorFlow Lite model": "take the weights that it was converted from",
    "an ONNX model": "take the checkpoint that it was exported from, or read its initializers with onnx.numpy_helper",
    "a GGUF file": "it is for llama.cpp: take the safetensors that it was made from",
    "a git-lfs pointer, not the file it points to": "git lfs pull fetches the file itself",
    "an HTML page": "a download page was saved instead of the file: use the link of the file itself",
    "a JSON document": "where it is what a server answered, download the file again; an index ends in .index.json",
    "an XML document": "where it is what a server answered, download the file again",
    "plain text": "where it is what a server answered, download the file again",
    "an empty file": "download or copy it again: nothing of it has come",
    "a file of zero bytes": "download or copy it again: its place was taken and never filled",
    "a Core ML model": "take the checkpoint that it was converted from",
    "a Flax checkpoint": "flax.serialization.msgpack_restore reads its arrays; save them with numpy.savez",
    "a pickle of joblib": "read it with joblib, and save its arrays by name: numpy.savez(NEW, **{NAME: ARRAY})",
    "a numpy array": "save arrays by name: numpy.savez(NEW, **{NAME: ARRAY})",
    "a zip archive of other files": "unpack it, and give the file of weights that is in it",
    "a tar archive of other files": "unpack it, and give the file of weights that is in it",
    **dict.fromkeys(
        ("a gzip archive", "a bzip2 archive", "an xz archive", "a zstd archive", "a 7z archive", "a rar archive"),
        "unpack it, and give the file of weights that is in it",
    ),
}
"""What to do about a file of that kind."""
_LEGACY = {"storages", "tensors", "pickle"}
"""Members of the tar archives that torch wrote before 0.2."""
_BY_NAME = {
    ".index": "a TensorFlow checkpoint",
    ".data-00000-of-00001": "a TensorFlow checkpoint",
    ".msgpack": "a Flax checkpoint",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
}
"""What files are whose first bytes are those of others, too."""


def describe_file(head: bytes, name: str, members: Sequence[str] = ()) -> str:
    r"""Format of a file in words, sniffed from its first bytes, its name, and what an archive has in it.

    Example:
        >>> describe_file(b"PK\x03\x04", "net.pt", ["net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"])
        'a TorchScript archive'
    """
    inner = {member.partition("/")[2] for member in members}
    if any(each.startswith("code/") for each in inner):
        return "a TorchScript archive"
    if inner & {"archive_format", "serialized_exported_program.json"} or "serialized_exported_program.json" in members:
        return "an archive of torch.export"
    if "model.weights.h5" in members:
        return "a Keras archive"
    if members and is_tar(head):
        return "a tar archive of other files" if _LEGACY.isdisjoint(members) else "a tar archive"
    if members and "data.pkl" not in inner and not all(each.endswith(".npy") for each in members):
        return "a zip archive of other files"
    return next((kind for end, kind in _BY_NAME.items() if name.endswith(end)), None) or describe(head)


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
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)


def is_zip(head: bytes) -> bool:
    """Whether first bytes are those of a zip archive, as ``torch.save`` has written since version 1.6."""
    return head.startswith(b"PK\x03\x04")


def is_tar(head: bytes) -> bool:
    """Whether first bytes are those of a tar archive, as torch wrote before 0.2."""
    return head[_TAR_MAGIC] == b"ustar"


def is_safetensors(head: bytes) -> bool:
    """Whether a file is safetensors by its first bytes: the length of a JSON header in eight bytes, and the header."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 9 and 2 <= length <= 100_000_000 and head[8:9] == b"{"  # noqa: PLR2004 - the format's own limit


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text."""
    try:
        return head[:-3].decode("utf-8").isprintable() or b"\n" in head
    except UnicodeDecodeError:
        return False
