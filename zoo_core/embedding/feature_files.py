"""Two files of rows that grow together, features and targets: written once, continued after an interruption, proven."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import anew, sync_folder
from zoo_core.weights.digest import Stamp, has_noted, note_stamp, steady_digest
from zoo_core.weights.download.disk import disk_errors, require_space
from zoo_core.weights.formats.safetensors import bytes_of

WHOLE = "whole.json"
_SO_FAR = "so_far.json"
_PARTS = ("features", "targets")
_EVERY = 5.0
"""Seconds between notes of how far it got: what an interruption may cost."""

_BINARY = getattr(os, "O_BINARY", 0)

Kind = dict[str, Any]


class Rows:
    """Rows of features that are written to files. Use it in a ``with`` statement; :meth:`finish` makes them visible.

    Args:
        folder: Where they go; what an interrupted run left there is continued.
        total: How many rows there will be.
        believed: Whether what is there is believed: not in a cache that was only found.
    """

    def __init__(self, folder: Path, total: int, *, believed: bool = True) -> None:
        self._folder = folder
        self._total = total
        self._believed = believed
        self._kinds: dict[str, Kind] = {}
        self._noted = time.monotonic()
        self.done = 0

    def __enter__(self) -> Self:
        with disk_errors(self._folder):
            no_follow.make_folder(self._folder)
            self.done, self._kinds = self._progress_left() if self._believed else (0, {})
            self._files = {part: _appended(self._folder / f"{part}.partial") for part in _PARTS}
            for part, file in self._files.items():
                file.truncate(self.done * _row_bytes(self._kinds[part]) if self._kinds else 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note how far it got, whatever ended it."""
        with disk_errors(self._folder):
            if self._kinds and self.done < self._total:
                self._note()
            for file in self._files.values():
                file.close()

    def append(self, features: Tensor, targets: Tensor) -> None:
        """Write some more rows.

        Raises:
            UsageError: They have another shape or dtype than those before.
            CacheError: The disk is full.
        """
        given = dict(zip(_PARTS, (features, targets), strict=True))
        kinds = {part: _kind(tensor) for part, tensor in given.items()}
        if not self._kinds:
            self._kinds = kinds
            require_space(self._folder, self._total * sum(map(_row_bytes, kinds.values())))
        if kinds != self._kinds:
            raise UsageError(
                "rows of different shapes cannot be kept in one file",
                expected=", ".join(f"{part} of {_said(kind)}" for part, kind in self._kinds.items()),
                got=", ".join(f"{part} of {_said(kind)}" for part, kind in kinds.items()),
                hint="resize all images to one size, and give every sample one kind of target",
            )
        with disk_errors(self._folder):
            for part, tensor in given.items():
                self._files[part].write(bytes_of(tensor))
            self.done += len(features)
            if time.monotonic() - self._noted > _EVERY:
                self._note()

    def finish(self) -> None:
        """Make the rows visible: whole, on the disk, and with their digests."""
        with disk_errors(self._folder):
            self._sync()
            record: dict[str, Any] = {"rows": self.done}
            for part in _PARTS:
                path = self._folder / f"{part}.bin"
                no_follow.replace(self._folder / f"{part}.partial", path)
                digest, stamp = steady_digest(path)
                if not self._believed:
                    note_stamp(path, digest, stamp)
                record[part] = {**self._kinds[part], "sha256": digest, "stamp": str(stamp)}
            sync_folder(self._folder)
            _write_record(self._folder / WHOLE, record)
            no_follow.unlink(self._folder / _SO_FAR)

    def _progress_left(self) -> tuple[int, dict[str, Kind]]:
        """Number and kind of the rows of features that an interrupted run is known to have written."""
        try:
            record = json.loads(no_follow.read_text(self._folder / _SO_FAR))
            done, kinds = int(record["rows"]), {part: dict(record[part]) for part in _PARTS}
            there = [no_follow.status(self._folder / f"{part}.partial").st_size for part in _PARTS]
            if all(size >= done * _row_bytes(kinds[part]) for size, part in zip(there, _PARTS, strict=True)):
                return min(done, self._total), kinds
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return 0, {}

    def _note(self) -> None:
        self._sync()
        _write_record(self._folder / _SO_FAR, {"rows": self.done, **self._kinds})
        self._noted = time.monotonic()

    def _sync(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


def read_rows(folder: Path, *, believed: bool = True) -> tuple[Tensor, Tensor] | None:
    """The rows in the feature files of a folder, both mapped; None when one is not there, not whole or not as it was.

    Changing them does not change the files.

    Args:
        folder: Where they are, free of links.
        believed: Whether what it says of its files is believed; else only what this user has noted.
    """
    try:
        record = json.loads(no_follow.read_text(folder / WHOLE))
        if not believed and not all(has_noted(folder / f"{part}.bin", record[part]["sha256"]) for part in _PARTS):
            return None
        features, targets = (_mapped(folder, part, record) for part in _PARTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return features, targets


def _mapped(folder: Path, part: str, record: dict[str, Any]) -> Tensor:
    """A feature file, the one of features or of targets, mapped as a tensor, once proven to be what was written."""
    path, kind, rows = folder / f"{part}.bin", record[part], int(record["rows"])
    if str(Stamp.of(path)) != kind["stamp"]:
        if steady_digest(path)[0] != kind["sha256"]:
            msg = f"{path} is not what it was"
            raise ValueError(msg)
        record[part] = {**kind, "stamp": str(Stamp.of(path))}
        with suppress(OSError):  # the folder is read-only: it is hashed each time
            _write_record(folder / WHOLE, record)
    shape = (rows, *kind["shape"])
    count = rows * _row_bytes(kind) // _dtype(kind).itemsize
    if not count:
        return torch.empty(shape, dtype=_dtype(kind), device="cpu")
    return torch.from_file(str(path), shared=False, size=count, dtype=_dtype(kind)).view(shape)


def _kind(rows: Tensor) -> Kind:
    return {"dtype": str(rows.dtype).removeprefix("torch."), "shape": list(rows.shape[1:])}


def _said(kind: Kind) -> str:
    return f"{kind['dtype']} {kind['shape']}"


def _dtype(kind: Kind) -> torch.dtype:
    """The dtype of the rows in a file of features."""
    result = getattr(torch, kind["dtype"])
    if not isinstance(result, torch.dtype):
        msg = f"{kind['dtype']} is no dtype"
        raise TypeError(msg)
    return result


def _row_bytes(kind: Kind) -> int:
    """How many bytes a row in a file of features takes."""
    return _dtype(kind).itemsize * math.prod(kind["shape"])


def _write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record of the files of features, beside them, so that it is there whole."""
    with anew(path) as file:
        file.write(json.dumps(record).encode())
        file.flush()
        os.fsync(file.fileno())


def _appended(path: Path) -> BinaryIO:
    return os.fdopen(no_follow.descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _BINARY), "ab")
