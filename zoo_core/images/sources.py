"""What a user calls images, one by one: files, folders, globs, batches and iterables, as sources not opened yet."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zoo_core.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp".split()  # noqa: SIM905 - one line
)


VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in ["avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm"])
"""What is taken from a folder; a file that is named itself may have any name."""


_BATCH_AXES = 4


class Source(NamedTuple):
    """The source of one image, with its name; it is not opened yet.

    Attributes:
        name: Its path, or ``image 3`` for the fourth of several that have none.
        item: A path, bytes, an open file, a PIL image, an array or a tensor.
    """

    name: str
    item: Any


def sources_of(images: object, *, video: bool = False) -> tuple[Iterator[Source], bool]:
    """The sources of images in a file, folder, glob, batch or iterable, in order, and whether that is several.

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
        return _of_each(images, video=video), True  # type: ignore[arg-type]  # an array
    if axes is not None:
        several = axes > (_BATCH_AXES if video else _BATCH_AXES - 1)
        numbered = enumerate(images) if several else [(0, images)]  # type: ignore[arg-type]  # an array
        return (Source(f"image {i}", item) for i, item in numbered), several
    is_one = isinstance(images, bytes | bytearray | memoryview | Mapping)
    is_one = is_one or hasattr(images, "read") or hasattr(images, "mode")
    if isinstance(images, Iterable) and not is_one:
        return _of_each(images, video=video), True
    return iter([Source("image 0", images)]), False


def _of_each(images: Iterable[Any], *, video: bool) -> Iterator[Source]:
    """Sources to read for each item of an iterable of images; reading an item that is none raises its error."""
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
    """The sources of the images at a path: a file, or all those of a folder or a glob."""
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
    """Paths of the images in a folder and those inside it, in order, as sources of them."""
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
    """The same sources of images, of which there has to be one."""
    first = next(sources, None)
    if first is None:
        raise ImageError(f"{name}: {problem}", expected="at least one image", hint="check the path", name=name)
    return _chained(first, sources)


def _chained(first: Source, rest: Iterable[Source]) -> Iterator[Source]:
    yield first
    yield from rest
