"""Images found and loaded: the sources in files, folders, globs and batches, then read by a pool of threads."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo_core.errors import ImageError, ZooError
from zoo_core.images.read import VIDEO_SUFFIXES, ReadImage

if TYPE_CHECKING:
    from torch import Tensor


IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp".split()  # noqa: SIM905 - one line
)
"""What is taken from a folder, as are files with one of ``VIDEO_SUFFIXES``; a file that is named may have any name."""
_BATCH_AXES = 4


class Source(NamedTuple):
    """The source of one image to load, with its name; it is not opened yet.

    Attributes:
        name: Its path, or ``image 3`` for the fourth of several that have none.
        item: A path, bytes, an open file, a PIL image, an array or a tensor.
    """

    name: str
    item: Any


def sources_of(images: object, *, video: bool = False) -> tuple[Iterator[Source], bool]:
    """The sources of images to load, in a file, folder, glob, batch or iterable, and whether that is several.

    Folders are gone through with all folders inside them, by name, and hidden files are left out.

    Args:
        images: One image, or a folder, a glob, a batch, or an iterable of any of these.
        video: Whether each is a clip: four axes are then one, and a folder is searched for videos.

    Raises:
        ImageError: A folder or a glob has no images, or there is no such file.

    Example:
        >>> import torch
        >>> images, several = sources_of(torch.zeros(2, 3, 8, 8))
        >>> [source.name for source in images], several
        (['image 0', 'image 1'], True)
    """
    if isinstance(images, str | os.PathLike):
        return _of_path(os.fspath(images), VIDEO_SUFFIXES if video else IMAGE_SUFFIXES)
    axes = getattr(images, "ndim", None)
    if axes == 1 and str(getattr(images, "dtype", ""))[:1] in ("<", "o", "s"):  # an array or a column of paths
        return _sources_of_each(images, video=video), True  # type: ignore[arg-type]  # an array
    if axes is not None:
        several = axes > (_BATCH_AXES if video else _BATCH_AXES - 1)
        numbered = enumerate(images) if several else [(0, images)]  # type: ignore[arg-type]  # an array
        return (Source(f"image {i}", item) for i, item in numbered), several
    is_one = isinstance(images, bytes | bytearray | memoryview | Mapping)
    is_one = is_one or hasattr(images, "read") or hasattr(images, "mode")
    if isinstance(images, Iterable) and not is_one:
        return _sources_of_each(images, video=video), True
    return iter([Source("image 0", images)]), False


def _sources_of_each(images: Iterable[Any], *, video: bool) -> Iterator[Source]:
    """Sources for loading of each item of an iterable; an item that is no image raises its error once it is loaded."""
    for i, item in enumerate(images):
        try:
            inner, several = sources_of(item, video=video)
        except ImageError as error:  # one bad item of many: reading it raises the error
            inner, several = iter([Source(str(getattr(error, "name", i)), error)]), True
        for source in inner:
            is_nameless = not isinstance(source.item, str | os.PathLike | ImageError)
            name = f"image {i}, {source.name}" if several else f"image {i}"
            yield source._replace(name=name) if is_nameless else source


def _of_path(text: str, suffixes: frozenset[str]) -> tuple[Iterator[Source], bool]:
    """The sources of the images to load at a path: a file, or all those of a folder or a glob."""
    if not text:
        raise ImageError("an empty path", expected="a file, a folder or a glob", hint="'.' is the folder you are in")
    text = os.path.expanduser(text)  # noqa: PTH111 - a glob is no path
    path = Path(text)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # such as a name that is too long, as an image in base64 is
        short = f"{text:.40}..."
        hint = "bytes of an image are given as bytes: base64.b64decode(text)"
        raise ImageError(f"{short}: no path that can be opened", cause=error.strerror, hint=hint, name=short) from error
    if is_folder:
        return _one_or_more((_source(each) for each in _walk(path, suffixes)), text, "no images in this folder"), True
    if glob.has_magic(text) and not is_there:
        matches = (Path(each) for each in sorted(glob.glob(text, recursive=True)))  # noqa: PTH207 - absolute patterns too
        return _one_or_more((_source(each) for each in matches if each.is_file()), text, "no file matches"), True
    if "\0" in text:
        raise ImageError(f"{text!r}: a zero byte is in this path", hint="check the path", name=text)
    if "://" in text:
        raise ImageError(f"{text}: images are read from files", hint="download it, and give its path", name=text)
    return iter([_source(path)]), False


def _source(path: Path) -> Source:
    return Source(str(path), path)


def _walk(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Paths of the images found for loading in a folder and those inside it, in order."""
    seen = set()  # links may go round in a circle
    for at, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(at) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(at))
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(at, name)


def _one_or_more(sources: Iterator[Source], name: str, problem: str) -> Iterator[Source]:
    """The sources found for loading in a folder or by a glob; an error where there is not a single one."""
    first = next(sources, None)
    if first is None:
        raise ImageError(f"{name}: {problem}", expected="at least one image", hint="check the path", name=name)
    return chain([first], sources)


_MOST_WORKERS = 8
_LONGEST = 1000
"""How many times longer than wide an image may be: resizing makes its short side as long as the model's."""


@dataclass(frozen=True)
class Loaded:
    """One image ready for a model, or the reason why there is none.

    Attributes:
        name: What it is called.
        tensor: As the model takes it; None where it could not be read.
        size: Height and width before it was prepared.
        note: What was done to it that its user may not expect.
        error: Why it could not be read.
        original: The image as it was read, where it was to be kept.
    """

    name: str
    tensor: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    note: str = ""
    error: ZooError | None = None
    original: Any = None


def load_images(
    sources: Iterable[Source],
    reader: Callable[[Any, str], ReadImage],
    prepare: Callable[[Any], Tensor],
    *,
    num_workers: int | None = None,
    ahead: int = 32,
    keep: bool = False,
) -> Iterator[Loaded]:
    """Images in their order, read by threads: decoding and resizing leave Python's lock to others.

    Args:
        sources: What to read.
        reader: Item and name to a read image.
        prepare: A read image to a tensor.
        num_workers: Threads; None for one a core, up to 8, and 0 for none.
        ahead: How many images are in memory at most before they are taken.
        keep: Whether the image as it was read is kept with it.
    """

    def load(source: Source) -> Loaded:
        try:
            result = reader(source.item, source.name)
            _require_no_line(result.size, source.name)
            tensor = prepare(result.image)
        except ImageError as error:
            return Loaded(source.name, error=error)
        except ZooError as error:  # such as the wrong number of channels
            named = ImageError(f"{source.name}: {error.summary}", **error.parts, name=source.name)
            return Loaded(source.name, error=named)
        except (ArithmeticError, AttributeError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            # one odd image is not the end of a run over many
            reason = f"{type(error).__name__}: {error}"
            failed = ImageError(f"{source.name}: cannot be prepared for the model", cause=reason, name=source.name)
            return Loaded(source.name, error=failed)
        return Loaded(source.name, tensor, result.size, result.note, original=result.image if keep else None)

    count = min(os.cpu_count() or 1, _MOST_WORKERS) if num_workers is None else num_workers
    if not count:
        yield from map(load, sources)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="zoo-images") as pool:
        try:
            yield from _map_in_order(pool, load, sources, max(ahead, count))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _map_in_order(
    pool: ThreadPoolExecutor, load: Callable[[Source], Loaded], sources: Iterable[Source], ahead: int
) -> Iterator[Loaded]:
    """The results of the threads that load images, in order, at most ``ahead`` of them before they are taken."""
    waiting: deque[Future[Loaded]] = deque()
    for source in sources:
        waiting.append(pool.submit(load, source))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _require_no_line(size: tuple[int, int], name: str) -> None:
    """Refuse to load an image so long that resizing its short side would take all memory.

    Raises:
        ImageError: One side is more than a thousand times the other.
    """
    if max(size) > _LONGEST * min(size):
        raise ImageError(
            f"{name}: {size[0]}x{size[1]} is a line and no image",
            expected=f"sides of which one is at most {_LONGEST} times the other",
            hint="cut it, or use zoo.sliding_window, which does not resize",
            name=name,
        )


def in_batches(loaded: Iterable[Loaded], size: int, *, any_shape: bool = False) -> Iterator[list[Loaded]]:
    """Loaded images of one shape together, at most ``size`` of them, in order; those without a tensor go along.

    Args:
        loaded: Images.
        size: Of a batch.
        any_shape: Whether images of several shapes may be in one batch.

    Example:
        >>> import torch
        >>> images = [Loaded(str(i), torch.zeros(3, side, side)) for i, side in enumerate([8, 8, 8, 4])]
        >>> [[image.name for image in batch] for batch in in_batches(images, 2)]
        [['0', '1'], ['2'], ['3']]
    """
    batch: list[Loaded] = []
    shape = None
    for each in loaded:
        own = None if each.tensor is None or any_shape else each.tensor.shape
        if batch and (len(batch) == size or (own is not None and shape is not None and own != shape)):
            yield batch
            batch, shape = [], None
        batch.append(each)
        shape = own if own is not None else shape
    if batch:
        yield batch
