"""Read a file of weights as tensors, and as nothing else: no code in the file is ever run."""

from __future__ import annotations

import stat
import zipfile
from typing import TYPE_CHECKING

from zoo_core.errors import Unreadable
from zoo_core.utils.paths import expand, in_utf8
from zoo_core.weights.checkpoint.candidates import likeliest_candidate
from zoo_core.weights.formats import sniff
from zoo_core.weights.formats.memory_limits import (
    TooMuchMemory,
    not_read,
    require_small_directory,
    require_small_header,
)
from zoo_core.weights.formats.numpy_archive import NotNumbers, is_numpy_archive, read_numpy_archive
from zoo_core.weights.formats.plain_pickle import NotPlain, require
from zoo_core.weights.formats.torch_legacy import read_stream
from zoo_core.weights.formats.torch_zip import read_plain

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from torch import Tensor

_HEAD = 512


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
    content, mapped = read_whole(path)
    return likeliest_candidate(content, path), mapped


def read_whole(path: str | os.PathLike[str]) -> tuple[object, bool]:
    """Read a weights file of any format, wrapper included; also whether its tensors are mapped from the file.

    Raises:
        Unreadable: The file is not there, broken, or no file of tensors.
    """
    file = expand(path)
    head = _head(file)
    if sniff.is_safetensors(head):
        return read_safetensors(file)[0], True
    return _pickled(file, head)


def may_hold_more(path: str | os.PathLike[str]) -> bool:
    """Whether a file to read may hold more than tensors by name, as its format allows.

    Raises:
        Unreadable: It is not there.
    """
    return not sniff.is_safetensors(_head(expand(path)))


def _head(file: Path) -> bytes:
    """Read the first bytes of a file of weights, before the reader for its format is chosen."""
    try:
        _require_file(file)
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise Unreadable(f"{file} cannot be read", got=error.strerror or str(error), path=file) from error


def _require_file(file: Path) -> None:
    """Refuse to read weights from a folder, and from what could be read for ever, such as a pipe."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):
        is_folder = stat.S_ISDIR(mode)
        raise Unreadable(
            f"{file} is {'a folder' if is_folder else 'not a file'}",
            expected="a file of weights",
            hint="zoo.get(..., weights=FOLDER) takes one" if is_folder else "copy its content to a file",
            path=file,
        )


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file, mapped, and its metadata.

    Raises:
        Unreadable: It is broken, or its header would take far more memory than the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # safetensors takes names in UTF-8 only; a file of another name is read by its number.
        with file.open("rb") as numbered:
            require_small_header(numbered)
        with file.open("rb") as numbered, safe_open(in_utf8(file, numbered.fileno()), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.offset_keys()}, opened.metadata() or {}
    except TooMuchMemory as error:
        raise not_read(file, error) from error
    except (SafetensorError, NotPlain, OSError, ValueError, KeyError, TypeError) as error:  # the last of huge shapes
        raise Unreadable(f"{file} is a broken safetensors file", cause=str(error), path=file) from error


def _pickled(file: Path, head: bytes) -> tuple[object, bool]:
    """Read a file of weights that is no safetensors, by its first bytes, and say whether it is mapped."""
    members: list[str] = []
    try:
        if sniff.is_tar(head):
            from zoo_core.weights.formats.torch_legacy import read_tar

            return read_tar(file), False
        if not sniff.is_zip(head):
            return _stream(file, head), False
        require_small_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            if is_numpy_archive(archive.infolist()):
                return read_numpy_archive(file), False
            require(sniff.describe_file(head, file.name, members) not in sniff.NEXT_STEPS)
            return read_plain(file, archive)
    except Exception as error:  # a broken file can make the reader raise anything
        raise _refused(file, sniff.describe_file(head, file.name, members), error) from error


def _stream(file: Path, head: bytes) -> object:
    """Read a file of weights that is no archive: a stream of pickles."""
    require(head[:1] == b"\x80")
    return read_stream(file)


def _refused(file: Path, what: str, error: Exception) -> Unreadable:
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
