"""Images read row by row, so that one of any height takes the memory of a band of it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import ImageError
from zoo_core.images.read import from_array, read, require_image_shape, require_white

_TIFF_SUFFIXES = {".tif", ".tiff", ".svs", ".ndpi", ".scn"}
_BITS = {8, 16, 32}
_GREY, _RGB = 1, 3


class Rows(Protocol):
    """An image whose rows can be read apart.

    Attributes:
        height: In pixels.
        width: In pixels.
    """

    height: int
    width: int

    def band(self, top: int, bottom: int) -> Tensor:
        """Rows from ``top`` to before ``bottom``, ``[C, rows, width]``: uint8, or floats from 0 to 1."""

    def close(self) -> None:
        """Close the file, where there is one."""


def open_rows(item: Any, name: str, channels: int = _RGB) -> Rows:
    """An image by its rows: a TIFF and an array on disk (``numpy.memmap``) are never in memory whole.

    Args:
        item: As for :func:`read`.
        name: What to call it in an error.
        channels: How many the model takes; what is more than RGB is left out unless it takes that many.

    Raises:
        ImageError: It cannot be read; the message names it.

    Example:
        >>> import numpy as np
        >>> rows = open_rows(np.zeros((40, 60, 3), dtype=np.uint8), "array")
        >>> rows.height, rows.width, rows.band(8, 16).shape
        (40, 60, torch.Size([3, 8, 60]))
    """
    is_path = isinstance(item, str | os.PathLike)
    if is_path and Path(item).suffix.lower() in _TIFF_SUFFIXES and Path(item).is_file():
        tiff = _tiff(Path(item), name, channels)
        if tiff is not None:
            return tiff
    is_loaded = isinstance(item, torch.Tensor) or type(item).__module__.startswith("PIL.")
    if hasattr(item, "__array__") and not is_loaded:
        return _ArrayRows(item, name, channels)
    return _whole_rows(read(item, name).image, channels)


def _whole_rows(image: Any, channels: int) -> TensorRows:
    """The rows of an image that is decoded whole, because it is in memory already or has to be."""
    from torchvision.transforms.v2 import functional

    if not isinstance(image, torch.Tensor):
        is_whole = image.mode in ("L", "RGB", "RGBA") or (image.mode == "LA" and channels == 2)  # noqa: PLR2004 - grey and transparency
        plain = image if is_whole else image.convert("RGB")
        image = functional.pil_to_tensor(plain)
        image = image[:_RGB] if plain.mode == "RGBA" and channels <= _RGB else image
    return TensorRows(image)


class TensorRows:
    """The rows of an image that is a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.height, self.width = tensor.shape[-2:]

    def band(self, top: int, bottom: int) -> Tensor:
        """Rows from ``top`` to before ``bottom``."""
        return self._tensor[:, top:bottom]

    def close(self) -> None:
        """There is no file."""


class _ArrayRows:
    """The rows of an array ``[H, W]`` or ``[H, W, C]``, which may be on disk."""

    def __init__(self, array: Any, name: str, channels: int) -> None:
        self._array, self._name, self._channels = array, name, channels
        require_image_shape(array.shape, name)
        if isinstance(array, np.ndarray) and not isinstance(array, np.memmap):  # what is on disk would be read twice
            require_white(array, name)
        self.height, self.width = array.shape[:2]

    def band(self, top: int, bottom: int) -> Tensor:
        rows = from_array(np.asarray(self._array[top:bottom]), self._name)
        return _whole_rows(rows, self._channels).band(0, bottom - top)

    def close(self) -> None:
        """The file, where there is one, belongs to the caller."""


def _tiff(path: Path, name: str, channels: int) -> _TiffRows | None:
    """A TIFF read row by row, by its strips or tiles; None where Pillow has to read it."""
    try:
        import tifffile
    except ImportError:
        return None
    try:
        file = path.open("rb")
    except OSError as error:
        raise ImageError(f"{name}: cannot be opened", cause=str(error), name=name) from error
    try:
        rows = _TiffRows(tifffile.TiffFile(file), file, name, channels)
    except (tifffile.TiffFileError, OSError, IndexError, struct.error) as error:
        file.close()
        raise ImageError(
            f"{name}: no TIFF that can be read", cause=f"{type(error).__name__}: {error}", name=name
        ) from error
    if rows.is_plain:
        return rows
    rows.close()
    return None


class _TiffRows:
    """The rows of the first page of a TIFF, of which only the strips or tiles of a band are decoded."""

    def __init__(self, tiff: Any, file: BinaryIO, name: str, channels: int) -> None:
        page = tiff.pages.first
        samples = page.samplesperpixel
        colours = _RGB if samples >= _RGB else _GREY
        is_transparency = samples == colours + 1 != channels
        self._kept = colours if is_transparency else None
        self._tiff, self._file, self._page, self._name = tiff, file, page, name
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        colour, compression = (getattr(each, "name", "") for each in (page.photometric, page.compression))
        extras = [getattr(extra, "name", "") for extra in page.extrasamples]
        self.is_plain = (
            (colour in ("RGB", "MINISBLACK") or (colour == "YCBCR" and compression == "JPEG"))
            and "ASSOCALPHA" not in extras  # colours times transparency
            and page.bitspersample in _BITS
            and page.imagedepth == 1
            and page.dtype is not None
            and page.dtype.name in ("uint8", "uint16", "float32")
            and page.tags.valueof("Orientation", 1) == 1
        )

    def band(self, top: int, bottom: int) -> Tensor:
        page = self._page
        rows = page.tilelength if page.is_tiled else page.rowsperstrip
        across = -(-self.width // page.tilewidth) if page.is_tiled else 1
        down = -(-self.height // rows)
        samples, planes = page.samplesperpixel, (page.samplesperpixel if page.planarconfig == 2 else 1)  # noqa: PLR2004 - TIFF's number for separate planes
        result = np.zeros((bottom - top, self.width, samples), dtype=page.dtype)
        for plane in range(planes):
            first, last = top // rows, -(-bottom // rows)
            for index in range(plane * across * down + first * across, plane * across * down + last * across):
                self._place(result, index, top)
        return self._scaled(result[:, :, : self._kept])

    def close(self) -> None:
        self._tiff.close()
        self._file.close()

    def _place(self, found: Any, index: int, top: int) -> None:
        page, handle = self._page, self._tiff.filehandle
        try:
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
            segment, at, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:  # codecs raise what they like at bad data
            raise ImageError(
                f"{self._name}: a part of the TIFF cannot be decoded",
                cause=f"{type(error).__name__}: {error}",
                hint="replace the file by a whole copy; pip install imagecodecs reads more compressions",
                name=self._name,
            ) from error
        if segment is None:  # left out by its writer: all zeros
            return
        plane, _, y, x, _ = at
        height, width = min(shape[1], self.height - y), min(shape[2], self.width - x)
        begin, end = max(y, top), min(y + height, top + len(found))
        part = segment[0, begin - y : end - y, :width]
        channels = slice(None) if self._page.planarconfig != 2 else slice(plane, plane + 1)  # noqa: PLR2004 - as above
        found[begin - top : end - top, x : x + width, channels] = part

    def _scaled(self, found: Any) -> Tensor:
        if found.dtype == np.uint8:
            return torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1)
        return cast("Tensor", from_array(found, self._name))
