"""Weights as JAX and its kin publish them: a zip archive of numpy arrays. No array of objects is ever unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from zipfile import ZipInfo

    from numpy.lib.npyio import NpzFile
    from torch import Tensor


class NotNumbers(ValueError):
    """An array in an archive of numpy holds something else than numbers that torch has."""


def is_numpy_archive(items: Sequence[ZipInfo]) -> bool:
    """Whether a zip archive is one of numpy: all that is in it is arrays, as ``numpy.savez`` writes them."""
    return bool(items) and all(item.filename.endswith(".npy") for item in items)


def read_numpy_archive(path: Path) -> dict[str, Tensor]:
    """The arrays in a numpy archive by name, as tensors.

    Args:
        path: The archive; nothing is extracted from it to the disk.

    Raises:
        NotNumbers: One of them holds objects, or numbers that torch does not have.
        OSError, ValueError, zipfile.BadZipFile: The archive is broken.
    """
    with np.load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive, name) for name in archive.files}


def _tensor(archive: NpzFile, name: str) -> Tensor:
    """The tensor of one array in a numpy archive."""
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        msg = f"{name} is an array of objects, which would have to be unpickled"
        raise NotNumbers(msg) from error
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.from_numpy(np.require(native, requirements=("C", "W")))
    except TypeError as error:
        msg = f"{name} is an array of {array.dtype}, which torch does not have"
        raise NotNumbers(msg) from error
