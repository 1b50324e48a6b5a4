"""Mirrors: static trees that any web server or bucket can serve, with files by digest and refs by name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from zoo_core.errors import CacheError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import anew, write_anew
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.bundle import require_cached
from zoo_core.weights.cache.refs import parse_ref, ref_name
from zoo_core.weights.download.disk import disk_errors
from zoo_core.weights.transport.sources import source_of
from zoo_core.weights.transport.urls import below

if TYPE_CHECKING:
    from zoo_core.weights.cache.inventory import Kept
    from zoo_core.weights.cache.store import Cache
    from zoo_core.weights.transport.policy import Policy

_LONGEST_REF = 1 << 16


def _mirror_path(name: str) -> str:
    """Where a mirror has the weights of ``family/name@tag`` by name, in a ref.

    Example:
        >>> _mirror_path("torchvision/resnet18@IMAGENET1K_V1")
        'refs/torchvision/resnet18@IMAGENET1K_V1'
    """
    family, _, rest = name.partition("/")
    model, _, tag = rest.rpartition("@")
    return f"refs/{ref_name(family, model, tag)}"


def digest_at_mirror(base: str, name: str, policy: Policy) -> str:
    """The whole digest that a mirror knows some weights by, or ``""`` when what it has is no ref.

    Raises:
        Failure: The mirror does not answer, or with an error.
    """
    url = below(base, quote(_mirror_path(name), safe="/@"))
    try:
        with contextlib.closing(source_of(url, policy, proven=False)) as source, source.read(0, "") as reply:
            text = b""
            for block in reply.blocks:
                text += block
                if len(text) > _LONGEST_REF:
                    return ""
        return parse_ref(text.decode("utf-8"), Path(_mirror_path(name))).sha256
    except (CacheError, UnicodeDecodeError):
        return ""


def export_mirror(cache: Cache, kept: Iterable[Kept], folder: Path) -> int:
    """Write a mirror of weights in the cache: a tree of ``<sha256>`` files, ``refs/`` and a list for ``sha256sum -c``.

    What is there already stays, so that a mirror can grow.

    Args:
        cache: The cache.
        kept: What to put there; each is proven first.
        folder: The root of the tree, to be served as it is.

    Returns:
        How many files the mirror has now.

    Raises:
        DigestMismatch: An object in the cache is missing or bad.
        CacheError: The folder cannot be written.
    """
    folder = no_follow.real(folder.absolute())
    with disk_errors(folder):
        no_follow.make_folder(folder)
        for item in kept:
            require_cached(cache, item)
            _put(item.path, folder / item.ref.sha256)
            ref = folder / item.ref_path.relative_to(cache.root)
            no_follow.make_folder(ref.parent)
            write_anew(ref, str(item.ref))
        names = [name for name in no_follow.names(folder) if digests.is_full(name)]
        write_anew(folder / "SHA256SUMS", "".join(f"{name}  {name}\n" for name in names))
    return len(names)


def _put(path: Path, final: Path) -> None:
    """Put a file into a mirror: link it, or copy it where that cannot be; whole or not at all."""
    temporary = final.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        no_follow.link(path, temporary)
    except OSError:
        with os.fdopen(no_follow.descriptor(path), "rb") as source, anew(final) as copy:
            shutil.copyfileobj(source, copy)
    else:
        no_follow.replace(temporary, final)
        no_follow.unlink(temporary)  # a rename onto another link to one file does nothing
