"""Files that Pillow cannot read: TIFFs through tifffile, and what the others are, as their first bytes say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from zoo_core.errors import ImageError

if TYPE_CHECKING:
    import numpy as np

_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_READ = ("RGB", "MINISBLACK")
_BEGINNING = 1024
_WEB_PAGE = ("a web page or an answer of a server, as a download that failed leaves", "download the image again")
_DRAWING = ("a drawing (SVG), and no image of pixels", "export it as PNG")
_HEIC = ("a HEIC photo, which Pillow cannot read", "export it as JPEG")
_JPEG_XL = ("a JPEG XL image, which Pillow cannot read", "export it as PNG or JPEG")
_MARKS = (
    *((0, mark, ("a TIFF of a kind that Pillow cannot read", "pip install 'zoo-core[tiff]'")) for mark in _TIFFS),
    *((4, b"ftyp" + brand, _HEIC) for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"JXL ", _JPEG_XL),
    (0, b"\xff\n", _JPEG_XL),
    (0, b"version https://git-lfs", ("a pointer of Git LFS, and not the image", "git lfs pull")),
    (0, b"%pdf", ("a PDF, and no image", "export its pages as PNG")),
    (0, b"\x93numpy", ("an array of NumPy", "zoo.predict(model, numpy.load(path))")),
    (0, b"pk\x03\x04", ("a ZIP archive", "unpack it, and give the folder")),
)
"""Where a file has which mark, in lower case where it is text; what it then is, and what to do with it."""


def describe(file: Any) -> tuple[str, str]:
    """What a file is that Pillow cannot read, and what to do with it, which may be empty.

    Example:
        >>> import io
        >>> describe(io.BytesIO(b"<!DOCTYPE html><title>404</title>"))
        ('a web page or an answer of a server, as a download that failed leaves', 'download the image again')
    """
    beginning = _beginning(file)
    if not beginning:
        return "the file is empty", ""
    text = beginning.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith(b"<"):
        return _DRAWING if b"<svg" in text else _WEB_PAGE
    for place, mark, answer in _MARKS:
        if beginning[place:].startswith(mark) or beginning[place:].lower().startswith(mark):
            return answer
    return "no image that Pillow can read", ""


def tiff_array(file: Any, name: str) -> np.ndarray[Any, Any] | None:
    """The first page of a TIFF, ``[H, W]`` or ``[H, W, C]``, through tifffile, which reads floats in colour.

    Args:
        file: A path or an open file.
        name: What to call it in an error.

    Returns:
        None where it is no TIFF, or tifffile is not installed.

    Raises:
        ImageError: It is damaged, or its values are no colours.
    """
    import numpy as np

    if not _beginning(file).startswith(_TIFFS):
        return None
    try:
        import tifffile
    except ImportError:
        return None
    try:
        with tifffile.TiffFile(file) as tiff:
            page: Any = tiff.pages.first
            colours, axes = getattr(page.photometric, "name", page.photometric), page.axes
            _refuse_tiff(page, name)
            array: np.ndarray[Any, Any] | None = page.asarray() if colours in _READ else None
    except ImageError:
        raise
    except Exception as error:  # codecs raise what they like at bad data
        raise ImageError(
            f"{name}: the TIFF cannot be decoded",
            cause=f"{type(error).__name__}: {error}",
            hint="replace it by a whole copy, or export it as PNG; pip install imagecodecs reads more compressions",
            name=name,
        ) from error
    if array is None:  # such as the raw values of a camera
        raise ImageError(
            f"{name}: a TIFF of {colours} values, which zoo does not read", hint="export it as PNG", name=name
        )
    return np.moveaxis(array, 0, -1) if axes.startswith("S") else array


def _refuse_tiff(page: Any, name: str) -> None:
    """Refuse a page of a TIFF file that tifffile cannot decode as one image: too large, or premultiplied with alpha."""
    if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):  # as Pillow does
        hint = "zoo.sliding_window(model, path, size=...) reads it window by window"
        raise ImageError(f"{name}: too large to be read as one image", hint=hint, name=name)
    if "ASSOCALPHA" in [getattr(extra, "name", "") for extra in page.extrasamples]:
        what = "a TIFF whose colours are multiplied by its transparency"
        raise ImageError(f"{name}: {what}", hint="export it as PNG", name=name)


def _beginning(file: Any) -> bytes:
    """The first bytes of a file that Pillow cannot read."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(_BEGINNING)
    file.seek(0)
    beginning: bytes = file.read(_BEGINNING)
    file.seek(0)
    return beginning
