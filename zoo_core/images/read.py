"""Images read as the transforms take them: upright, one frame, with all their bits; and why a file cannot be read."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from zoo_core.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in ["avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm"])
_DRAWINGS = ("EPS", "WMF")
"""What Pillow would have another program draw, and that from a file of anyone's."""
_DEEP_MODES = ("I", "F")
"""What the modes of PIL images with more than 8 bits begin with."""
_SIXTEEN_BITS = 65_535
_SIXTEEN_BIT_TYPES = ("uint16", ">u2", "<u2")
"""How the types of arrays and tensors of 16 bits print, those of the other byte order too."""
_TWELVE_BITS = 4_095
_EIGHT_BITS = 255
_PIL_CHANNELS = (1, 3, 4)
_MAP, _IMAGE, _BATCH = 2, 3, 4


class ReadImage(NamedTuple):
    """An image that was read, and what was done to it that its user may not expect."""

    image: Any
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if _is_pil(self.image):
            width, height = self.image.size
            return height, width
        return self.image.shape[-2], self.image.shape[-1]


def read_image(item: object) -> Image.Image | Tensor:
    """An image as :func:`zoo_core.predict` reads it and :func:`zoo_core.transforms` takes it, for datasets of your own.

    Args:
        item: A path, bytes of a file, an open file, a PIL image, an array ``[H, W]`` or ``[H, W, C]``, or a tensor
            ``[H, W]`` or ``[C, H, W]``.

    Returns:
        A PIL image, upright as its EXIF data says; or a tensor ``[C, H, W]``, of floats from 0 to 1 where the image has
        more than 8 bits.

    Raises:
        ImageError: It cannot be read; the message names it.

    Example:
        >>> import numpy as np, zoo_core as zoo
        >>> image = zoo.read_image(np.zeros((48, 64, 3), dtype=np.uint8))
        >>> zoo.transforms("tiny/glyphnet")(image).shape
        torch.Size([1, 32, 32])
    """
    name = str(item) if isinstance(item, str | Path) else getattr(item, "name", None) or type(item).__name__
    image: Image.Image | Tensor = read(item, str(name)).image
    return image


def read(item: object, name: str) -> ReadImage:
    """An image as the transforms take it: a PIL image, or a tensor ``[C, H, W]`` of floats from 0 to 1 or uint8.

    Files and PIL images are turned upright as their EXIF data says. 16 bits are kept, as floats. Of an animated image
    the first frame is taken, which the note says.

    Args:
        item: A path, bytes of a file, an open file, a PIL image, an array ``[H, W]`` or ``[H, W, C]``, or a tensor
            ``[H, W]`` or ``[C, H, W]``.
        name: What to call it in an error.

    Raises:
        ImageError: It cannot be read, or nothing says what its values mean; the message names it.

    Example:
        >>> import numpy as np
        >>> read(np.zeros((4, 6, 3), dtype=np.uint8), "array").size
        (4, 6)
    """
    import numpy as np
    import torch

    if isinstance(item, ImageError):
        raise item
    if isinstance(item, str | Path):
        return _read_file(Path(item), name)
    if isinstance(item, bytes | bytearray | memoryview):
        return _read_file(io.BytesIO(item), name)
    if isinstance(item, torch.Tensor):
        most = max(_PIL_CHANNELS)
        if item.ndim == _IMAGE and item.shape[2] in _PIL_CHANNELS and min(item.shape[:2]) > most:
            raise ImageError(
                f"{name}: a tensor of the shape {list(item.shape)} has its channels last",
                expected="[C, H, W]",
                hint="image.permute(2, 0, 1), or image.numpy(), for an array is [H, W, C]",
                name=name,
            )
        return ReadImage(_checked_tensor(item, name), require_white(item, name))
    if _is_pil(item):
        return _decoded(item, name)
    if hasattr(item, "__array__"):
        try:
            array = np.asarray(item)
        except Exception as error:  # such as of an array on a GPU
            raise ImageError(f"{name}: gives no array", cause=f"{type(error).__name__}: {error}", name=name) from error
        return ReadImage(_of_array(array, name), require_white(array, name))
    if hasattr(item, "read"):
        return _read_file(item if hasattr(item, "seek") else io.BytesIO(item.read()), name)
    raise ImageError(
        f"{name}: {type(item).__name__} is no image",
        expected="a path, glob or folder, bytes, a PIL image, an array [H, W, C], or a tensor [C, H, W]",
        name=name,
    )


def _is_pil(item: object) -> bool:
    return type(item).__module__.startswith("PIL.")


def _read_file(file: Any, name: str) -> ReadImage:
    """Read an image file with Pillow, or what Pillow cannot read as a TIFF."""
    if isinstance(file, Path):
        _require_regular(file, name)
    try:
        with Image.open(file) as image:
            return _decoded(image, name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        array = tiff_array(file, name)
        if array is None:
            what, hint = _format_of(file)
            if not hint and isinstance(file, Path) and file.suffix.lower() in VIDEO_SUFFIXES:
                what = "a video, and the model takes images"
            raise _no_image(name, what, hint) from error
        return ReadImage(_of_array(array, name))
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: too large to be read as one image",
            cause=str(error),
            hint="zoo.sliding_window(model, path, size=...) reads it window by window",
            name=name,
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file or folder", hint="check the path", name=name) from error
    except PermissionError as error:
        raise ImageError(f"{name}: may not be read", cause=str(error), hint="chmod u+r lets you", name=name) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, zlib.error and others at bad data
        raise ImageError(
            f"{name}: the file is damaged or cut off",
            cause=f"{type(error).__name__}: {error}",
            hint="replace it by a whole copy, or leave it out",
            name=name,
        ) from error


def _require_regular(path: Path, name: str) -> None:
    """Refuse to read an image from a folder, from a broken link, or from a pipe, which would be waited for."""
    try:
        is_regular = path.is_file() or not path.exists()
    except OSError as error:  # such as links in a circle
        raise ImageError(f"{name}: cannot be opened", cause=str(error), hint="check the path", name=name) from error
    if path.is_symlink() and not path.exists():
        where = path.readlink()
        raise ImageError(f"{name}: a link to {where}, which is not there", hint="mend or remove the link", name=name)
    if not is_regular:
        kind = "folder" if path.is_dir() else "pipe, socket or device"
        raise ImageError(
            f"{name}: a {kind}, and no file", hint="write the image to a file, or give its bytes", name=name
        )


def _no_image(name: str, what: str, hint: str = "") -> ImageError:
    return ImageError(f"{name}: {what}", hint=hint or "leave it out, or save it as PNG or JPEG", name=name)


def _decoded(image: Any, name: str) -> ReadImage:
    """An image that Pillow has opened, decoded as it is read here: upright, one frame, with all its bits."""
    import numpy as np

    if image.format in _DRAWINGS:
        raise _no_image(name, f"a drawing ({image.format}), and no image of pixels")
    frames = getattr(image, "n_frames", 1)
    note = f"the first of {frames} frames or pages" if frames > 1 and getattr(image, "is_animated", True) else ""
    image.load()
    turned: Image.Image = ImageOps.exif_transpose(image)
    upright = _from_lab(turned) if turned.mode == "LAB" else turned
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")  # Pillow warns where a palette with transparency goes straight to RGB
    if upright.mode == "La":
        upright = upright.convert("LA")  # the only one that Pillow converts it to
    if not upright.mode.startswith(_DEEP_MODES):
        return ReadImage(upright, note)
    values = np.asarray(upright)  # Pillow's own getextrema knows one byte order alone
    most = int(values.max(initial=0)) if upright.mode.startswith("I;16") else 0
    return ReadImage(_all_bits(values, upright.mode, name), note or _dark_note(most))


def _dark_note(most: Any) -> str:
    """Note on a 16-bit image that is read dark, since its values use 12 bits at most, as those of many cameras do."""
    is_dark = 0 < most <= _TWELVE_BITS
    return f"dark: its values reach {most} of {_SIXTEEN_BITS}, which is white in an image of 16 bits" if is_dark else ""


def require_white(values: Any, name: str) -> str:
    """What to note as 16 bits are read as an image; refused where they hold 8, as no file says what white is.

    Raises:
        ImageError: No value is above 255.
    """
    if str(values.dtype).removeprefix("torch.") not in _SIXTEEN_BIT_TYPES or 0 in values.shape:
        return ""
    most = int(values.max() if hasattr(values, "astype") else values.cpu().int().max())
    if 0 < most <= _EIGHT_BITS:
        raise ImageError(
            f"{name}: integers of 16 bits, none above {most}, so that it is not known which value is white",
            expected="8 bits, or 16 of which white is 65535",
            hint="image.astype('uint8'), or .to(torch.uint8) of a tensor, where white is 255",
            name=name,
        )
    return _dark_note(most)


def _from_lab(image: Image.Image) -> Image.Image:
    """A CIELAB image as RGB, which Pillow's ``convert`` does not do."""
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, rgb, "LAB", "RGB")) or image


def _all_bits(values: np.ndarray[Any, Any], mode: str, name: str) -> Tensor:
    """A grey image of more than 8 bits, in a mode of Pillow, as floats ``[1, H, W]`` from 0 to 1."""
    import numpy as np

    if mode.startswith("F"):
        return _checked_tensor(_to_torch(values.astype(np.float32)), name)
    if values.min(initial=0) < 0 or values.max(initial=0) > _SIXTEEN_BITS:
        raise ImageError(
            f"{name}: its values go from {values.min()} to {values.max()}",
            expected=f"0 to {_SIXTEEN_BITS}, as images of 16 bits have",
            hint="scale the values to floats from 0 to 1, and give them as a tensor [1, H, W]",
            name=name,
        )
    if mode == "I" and 0 < values.max() <= _EIGHT_BITS:  # of 32 bits, as arrays of integers become
        raise ImageError(
            f"{name}: integers of 32 bits, none above {values.max()}, so that it is not known which value is white",
            expected="8 bits, or 16 of which white is 65535",
            hint="image.convert('L') where white is 255",
            name=name,
        )
    return _to_torch(values.astype(np.float32) / _SIXTEEN_BITS)[None]


def _of_array(item: Any, name: str) -> Any:
    """An array that is read as an image."""
    import numpy as np

    array: np.ndarray[Any, Any] = np.asarray(item)
    require_image_shape(array.shape, name)
    return from_array(array, name)


def require_image_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuse the shape of an array that cannot be read as an image ``[H, W]`` or ``[H, W, C]``.

    Raises:
        ImageError: It has other axes, is empty, or has its channels first.
    """
    if len(shape) not in (_MAP, _IMAGE) or 0 in shape:
        raise _not_an_image(shape, "array", "[H, W] or [H, W, C]", name)
    if len(shape) == _IMAGE and shape[2] > max(_PIL_CHANNELS) and shape[0] in _PIL_CHANNELS:
        raise ImageError(
            f"{name}: an array of the shape {list(shape)} has its channels first",
            expected="[H, W, C]",
            hint="torch.from_numpy(array), for a tensor is [C, H, W]",
            name=name,
        )


def from_array(array: np.ndarray[Any, Any], name: str) -> Any:
    """An array ``[H, W]`` or ``[H, W, C]`` as a PIL image, or as a tensor where Pillow has no mode for it.

    Raises:
        ImageError: Its values are no image's.
    """
    import numpy as np

    channels = array.shape[2] if array.ndim == _IMAGE else 1
    if array.dtype == np.uint8 and channels in _PIL_CHANNELS:
        return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
    tensor = _to_torch(array)
    return _checked_tensor(tensor.permute(2, 0, 1) if array.ndim == _IMAGE else tensor, name)


def _to_torch(array: np.ndarray[Any, Any]) -> Tensor:
    """An array that is read as an image, as a tensor with memory of its own."""
    import numpy as np
    import torch

    # of this machine's byte order, with positive strides, and writable: torch takes no other
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True))


def _checked_tensor(tensor: Tensor, name: str) -> Tensor:
    """Read a tensor as an image: ``[C, H, W]``, of uint8 or of floats from 0 to 1; refuse any other."""
    import torch

    if tensor.ndim not in (_MAP, _IMAGE) or not tensor.numel():
        raise _not_an_image(tensor.shape, "tensor", "[H, W] or [C, H, W]", name)
    tensor = tensor.detach().cpu()
    tensor = tensor[None] if tensor.ndim == _MAP else tensor
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * _EIGHT_BITS
    if tensor.dtype == torch.uint16:
        return tensor.float() / _SIXTEEN_BITS
    if not tensor.is_floating_point():
        raise ImageError(
            f"{name}: an image of {str(tensor.dtype).removeprefix('torch.')}",
            expected="uint8, uint16, or floats from 0 to 1",
            hint="say what white is: image.to(torch.uint8) where it is 255",
            name=name,
        )
    low, high = tensor.aminmax()
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ImageError(
            f"{name}: floats from {low.item():.4g} to {high.item():.4g}",
            expected="floats from 0 to 1",
            cause="some values are nan" if low.isnan() else "the image is normalized already, or counts to 255",
            hint="give it as it was before, or run model(x) on what is prepared; images to 255 as uint8",
            name=name,
        )
    return tensor.float()


def _not_an_image(shape: Any, what: str, expected: str, name: str) -> ImageError:
    return ImageError(f"{name}: {what} of the shape {list(shape)} is no image", expected=expected, name=name)


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


def _format_of(file: Any) -> tuple[str, str]:
    """Why Pillow cannot read a file as an image: what it is, and what to do with it, which may be empty.

    Example:
        >>> import io
        >>> _format_of(io.BytesIO(b"<!DOCTYPE html><title>404</title>"))
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
