"""Images in shards, as WebDataset writes them: tar files, read as they are.

A shard is a plain tar file whose members of one name, such as ``0001.jpg`` and ``0001.cls``, are one sample. The
library webdataset decodes, shuffles and splits for training; embedding needs the bytes in their order and nothing else,
which ``tarfile`` gives.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zoo_core.errors import ImageError
from zoo_core.images.loading import IMAGE_SUFFIXES, Source
from zoo_core.utils.paths import is_file

_ENDINGS = (".tar", ".tar.gz", ".tgz")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CLASS = ".cls"


class Packed(bytes):
    """The bytes of an image in a shard, by whose name a file of embeddings knows it."""

    __slots__ = ()


def shards_in(images: Any) -> list[Path]:
    """The shards that a path, a glob, a range such as ``shards-{000..010}.tar``, or a list of these, stands for.

    Returns:
        Their paths in order; none where the images are of another kind.

    Raises:
        ImageError: There is no such shard.

    Example:
        >>> shards_in("photos/")
        []
    """
    several = images if isinstance(images, list | tuple) else [images]
    texts = [os.fspath(each) for each in several if isinstance(each, str | os.PathLike)]
    if not texts or len(texts) < len(several) or not all(text.lower().endswith(_ENDINGS) for text in texts):
        return []
    return [path for text in texts for each in _expand_braces(text) for path in _matching(each)]


def _expand_braces(text: str) -> list[str]:
    """Shard names for a range of numbers in braces, each with as many digits as the first."""
    if not (match := _RANGE.search(text)):
        return [text]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [each for number in numbers for each in _expand_braces(text[: match.start()] + number + text[match.end() :])]


def _matching(text: str) -> list[Path]:
    """The shards at a path, or those that match a glob."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - a glob is no path
    matches = [path] if is_file(path) else [Path(each) for each in sorted(glob.glob(str(path)))]  # noqa: PTH207 - absolute patterns too
    if not matches:
        raise ImageError(
            f"{text}: there is no such shard", hint="check the path, and the numbers of the range", name=text
        )
    return matches


def images_in(shards: Iterable[Path]) -> Iterator[tuple[Source, str]]:
    """The images in shards, and the class of each where a ``.cls`` beside it has one.

    A shard that cannot be read to its end is an image that cannot be read.
    """
    for shard in shards:
        try:
            with tarfile.open(shard) as opened:
                yield from _samples(opened, shard)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:  # ValueError: broken headers of PAX
            problem = ImageError(f"{shard}: the shard cannot be read: {error}", name=str(shard))
            yield Source(str(shard), problem), ""


def _samples(opened: tarfile.TarFile, shard: Path) -> Iterator[tuple[Source, str]]:
    """The samples in a shard; members of one name follow each other.

    Raises:
        ReadError: An image and its class are apart, a member is there twice, or the file ends before its end is marked.
    """
    images: list[Source] = []
    name, label = "", ""
    labels: dict[str, str] = {}  # of the samples that were complete
    members: set[str] = set()
    for member in opened:
        if not member.isfile():  # a link leads to another member, or out of the shard
            continue
        path = Path(member.name)
        key = str(path.with_name(path.name.partition(".")[0]))
        if key != name:
            yield from ((each, label) for each in images)
            labels[name] = label
            images, name, label = [], key, ""
        is_class = path.suffix.lower() == _CLASS
        if member.name in members or (key in labels and (is_class or labels[key])):
            twice = "is there twice" if member.name in members else "is apart from the other members of its name"
            msg = f"{member.name} {twice}; the images after it were not read"
            raise tarfile.ReadError(msg)
        members.add(member.name)
        file = opened.extractfile(member)
        if file is not None and path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(Source(str(shard / path), Packed(file.read())))
        elif file is not None and is_class:
            label = file.read().decode(errors="replace").strip()
    yield from ((each, label) for each in images)
    _require_end(opened)


def _require_end(opened: tarfile.TarFile) -> None:
    """Refuse a shard that ``tarfile`` takes for ended: by a broken header, or cut between members."""
    file = opened.fileobj
    if file is None:
        return
    file.seek(opened.offset)
    rest = file.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        msg = "a header is broken; the images after it were not read" if any(rest) else "it was cut off"
        raise tarfile.ReadError(msg)
    while rest := file.read(1 << 20):
        if any(rest):
            msg = "another archive was appended to it, which was not read"
            raise tarfile.ReadError(msg)
