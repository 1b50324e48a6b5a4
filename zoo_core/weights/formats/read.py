"""Read a file of weights as tensors, and as nothing else: no code in the file is ever run."""

from __future__ import annotations

import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo_core.errors import Unreadable, ZooWarning
from zoo_core.weights.formats import sniff
from zoo_core.weights.formats.numpy_archive import NotNumbers, is_numpy_archive, read_numpy_archive
from zoo_core.weights.formats.plain import read_plain
from zoo_core.weights.formats.plain_pickle import NotPlain

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

WRAPPERS = (
    *("state_dict_ema", "model_ema"),  # the averaged weights, where there are some: those are the ones to use
    *("state_dict", "model", "model_state_dict", "model_state", "module", "net", "params"),
)
"""Keys under which training scripts keep the state dict among other things."""

_HEAD = 512
_GLOBAL = re.compile(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)")
_SAFE_TORCH = "2.10.0"
_PARALLEL = "module."
_COUNTER = "n_averaged"
"""What ``torch.optim.swa_utils.AveragedModel`` has beside its ``module``."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name, on the CPU and mapped from the file where its format allows.

    Safetensors, numpy's archives and checkpoints of nothing but tensors and plain data are read as such; everything
    else with ``torch.load(weights_only=True)``, and never otherwise. A state dict inside a wrapper such as
    ``{"state_dict": ..., "epoch": ...}`` is taken out, the averaged one (EMA) where there are two, and the prefix
    ``module.`` of data-parallel training is taken off when every name has it.

    Args:
        path: A ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.npz`` file; its content decides, not its name.

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
    """What :func:`read_state_dict` returns, and whether its tensors are mapped from the file.

    Raises:
        Unreadable: As there.
    """
    content, mapped = read_whole(path)
    return state_dict_in(content, path), mapped


def read_whole(path: str | os.PathLike[str]) -> tuple[object, bool]:
    """All that a file of weights holds, in the wrapper that it is in, and whether its tensors are mapped from the file.

    Raises:
        Unreadable: The file is not there, broken, or needs code to be run.
    """
    file = Path(path)
    head = _head(file)
    if sniff.is_safetensors(head):
        return read_safetensors(file)[0], True
    return _pickled(file, head)


def may_hold_more(path: str | os.PathLike[str]) -> bool:
    """Whether a file of that format may hold more than tensors by name.

    Raises:
        Unreadable: It is not there.
    """
    return not sniff.is_safetensors(_head(Path(path)))


def state_dict_in(content: object, source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a checkpoint that was read already: out of its wrapper, without the prefix ``module.``.

    Args:
        content: What ``torch.load`` gave.
        source: What to call it in an error.

    Raises:
        Unreadable: There is none.

    Example:
        >>> state_dict_in({"model": {"module.fc.bias": torch.zeros(2)}, "epoch": 3}, "the checkpoint")
        {'fc.bias': tensor([0., 0.])}
    """
    return _clean(_unwrapped(content, source))


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise Unreadable(f"{file} cannot be read", got=error.strerror or str(error), path=file) from error


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, mapped, and its metadata.

    Raises:
        Unreadable: It is broken.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.offset_keys()}, opened.metadata() or {}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise Unreadable(f"{file} is a broken safetensors file", cause=str(error), path=file) from error


def _pickled(file: Path, head: bytes) -> tuple[object, bool]:
    """What is in the file, and whether it is mapped from it."""
    try:
        if sniff.is_tar(head):
            from zoo_core.weights.formats.legacy_tar import read_tar

            return read_tar(file), False
        items: list[zipfile.ZipInfo] = []
        if sniff.is_zip(head):
            with zipfile.ZipFile(file) as archive:
                items = archive.infolist()
                with suppress(NotPlain):
                    return read_plain(file, archive), True
        if is_numpy_archive(items):
            return read_numpy_archive(file), False
        _warn_of_old_torch()
        if file.suffix == ".safetensors":  # torch.load goes by the name
            with file.open("rb") as opened:
                return torch.load(opened, map_location="cpu", weights_only=True), False
        # torch maps compressed tensors too, and reads noise for numbers
        mapped = bool(items) and all(item.compress_type == zipfile.ZIP_STORED for item in items)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped), mapped
    except Exception as error:  # a broken file can make the reader raise anything
        raise _refused(file, head, error) from error


def _warn_of_old_torch() -> None:
    if torch.__version__ < _SAFE_TORCH:
        warnings.warn(
            f"a crafted .pth file can corrupt the memory of torch {torch.__version__}, even with weights_only=True "
            f"(CVE-2026-24747, mended in {_SAFE_TORCH}): update torch, or use safetensors",
            ZooWarning,
            stacklevel=4,
        )


def _refused(file: Path, head: bytes, error: Exception) -> Unreadable:
    return Unreadable(
        f"{file} cannot be read as weights",
        expected="safetensors, a checkpoint of tensors that torch.save wrote, or an archive of numpy arrays",
        got=sniff.describe(head),
        done="nothing in it was run",
        cause=_cause(error),
        hint="if you trust whoever made it, save its state dict again as safetensors",
        path=file,
    )


def _cause(error: Exception) -> str:
    """Why torch refused a file, without torch's advice to read it unsafely."""
    wanted = _GLOBAL.search(str(error))
    if isinstance(error, NotNumbers):
        return str(error)
    if wanted:
        return f"to read it, {wanted[1]} would have to be imported and run"
    return f"its bytes make no sense as a checkpoint ({type(error).__name__})"


def _unwrapped(content: object, source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The one dict of tensors in what was read."""
    for found in _state_dicts(content, deep=2):
        return dict(found)
    raise Unreadable(
        f"{source} holds no state dict",
        expected=f"tensors by name, alone or under one of {', '.join(WRAPPERS)}",
        got=_outline(content),
        path=source,
    )


def _state_dicts(content: object, *, deep: int) -> Iterator[dict[str, Tensor]]:
    """What is tensors by name, in the order in which it is wanted."""
    if isinstance(content, dict) and _is_state_dict(content):
        yield content
    elif isinstance(content, dict) and deep:
        for key in WRAPPERS:
            yield from _state_dicts(content.get(key), deep=deep - 1)


def _is_state_dict(content: dict[object, object]) -> bool:
    return bool(content) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _outline(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    shown = ", ".join(f"{key!r}: {type(value).__name__}" for key, value in list(content.items())[:6])
    return f"a dict of {len(content)}: {shown}"


def _clean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of data-parallel training, if all names have it and none collide without it."""
    weights = {name: tensor for name, tensor in state.items() if name != _COUNTER}
    if all(name.startswith(_PARALLEL) and len(name) > len(_PARALLEL) for name in weights):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in weights.items()}
    return state
