"""Weights that other caches or folders of this machine hold: hashed, and taken instead of fetched again."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import Untrusted
from zoo_core.utils import no_follow
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.refs import pinned
from zoo_core.weights.cache.store import Cache, Entry
from zoo_core.weights.download.disk import read_error
from zoo_core.weights.download.from_sources import download
from zoo_core.weights.request import Artefact, Request
from zoo_core.weights.transport.urls import file_name

if TYPE_CHECKING:
    from zoo_core.contract.card import Card

_HUB_URL = re.compile(r"https?://[^/]+/([^/]+/[^/]+)/resolve/([^/]+)/(.+?)(?:\?.*)?")


def find_elsewhere(urls: Sequence[str], sha256: str, size: int | None) -> tuple[Path, str] | None:
    """A file in the caches of torch.hub or of the hub's client, with the right bytes, to be reused.

    Args:
        urls: Where the file is on the network: the other tools name their files after it.
        sha256: Its whole digest or a prefix of at least 8 digits.
        size: Its length in bytes, when known: a file of another length is not hashed at all.

    Returns:
        The path, links followed, and its whole digest; None when there is no such file.
    """
    if not sha256:
        return None
    for path in _candidates(urls, sha256):
        try:
            path = no_follow.real(path, strict=True)  # noqa: PLW2901 - the hub's snapshots are links to its blobs
            if size not in (None, path.stat().st_size) or not path.is_file():
                continue
            digest, _ = digests.steady_digest(path)
            if digests.agrees(digest, sha256):
                return path, digest
        except OSError:
            continue
    return None


def _hub_file(url: str) -> tuple[str, str] | None:
    """The repository and path by which the hub's own cache has the file of a url, to be reused; None for other urls.

    Example:
        >>> _hub_file("https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors")
        ('timm/resnet18.a1_in1k', 'model.safetensors')
    """
    match = _HUB_URL.fullmatch(url)
    return (match[1], match[3]) if match and ".." not in match[3].split("/") else None


def digest_in_hub_cache(urls: Sequence[str]) -> str:
    """The digest by which the hub's own cache on this machine has a file, as the hub declared it; ``""`` if none.

    Args:
        urls: Where the file is on the network; the revision of one on the hub is looked up in the cache.
    """
    for url in urls:
        if (match := _HUB_URL.fullmatch(url)) and _hub_file(url):
            repository = _repository(match[1])
            with contextlib.suppress(OSError, UnicodeDecodeError):
                ref = repository / "refs" / match[2]
                commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else match[2]
                blob = no_follow.real(repository / "snapshots" / commit / match[3], strict=True)
                if blob.parent == no_follow.real(repository / "blobs") and digests.is_full(blob.name):
                    return blob.name
    return ""


def _hub_origin(path: Path, digest: str) -> set[tuple[str, str]]:
    """Repository and paths on the hub of a file that is in the hub's cache, one of the other caches of this machine."""
    blob = no_follow.real(path)
    repository = blob.parent.parent
    if blob.name != digest or blob.parent.name != "blobs" or not repository.name.startswith("models--"):
        return set()
    name = repository.name.removeprefix("models--").replace("--", "/", 1)
    return {
        (name, link.relative_to(repository / "snapshots").as_posix().partition("/")[2])
        for link in (repository / "snapshots").glob("*/**/*")
        if link.is_symlink() and no_follow.real(link) == blob
    }


def _repository(name: str) -> Path:
    """The folder of a repository in the hub's own cache on this machine, whose files may be reused."""
    return hugging_face_folder() / f"models--{name.replace('/', '--')}"


def _candidates(urls: Sequence[str], sha256: str) -> Iterator[Path]:
    """Where the caches of torch.hub and of the Hugging Face hub may have a file, to be reused."""
    for url in urls:
        yield torch_hub_folder() / file_name(url)
        if match := _HUB_URL.fullmatch(url):
            repository = _repository(match[1])
            if digests.is_full(sha256):
                yield repository / "blobs" / sha256
            if ".." not in match[3].split("/"):
                yield from sorted(repository.glob(f"snapshots/*/{glob.escape(match[3])}"))


@dataclass(frozen=True)
class Adopted:
    """A file of another cache or folder of this machine that was taken into ours, instead of being fetched again.

    Attributes:
        path: The object in the cache.
        names: What it is, as ``family/name@tag``.
        sha256: Its digest.
    """

    path: Path
    names: tuple[str, ...]
    sha256: str


def adopt(cache: Cache, path: Path, cards: Iterable[Card]) -> Adopted:
    """Take a file of another cache or folder of this machine into ours, linked where it can be, else copied.

    A card without a digest is that of a file in the cache of the Hugging Face hub: the hub declared its digest.

    Raises:
        Untrusted: No card knows a file with that digest.
        DigestMismatch: A name that it could have is pinned to other bytes.
        CacheError: The file cannot be read, or the cache cannot be written.
    """
    try:
        digest = digests.sha256_of(path)
    except OSError as error:
        raise read_error(path, error) from error
    origin = _hub_origin(path, digest)
    result = [
        (card, file)
        for card in cards
        for weights in card.weights
        for file in weights.files
        if digests.agrees(digest, file.sha256)
        or (origin and not file.sha256 and any(_hub_file(url) in origin for url in file.urls))
    ]
    if not result:
        raise Untrusted(
            f"no installed model has weights like {path.name}",
            got=f"sha256 {digest}",
            done="nothing was taken in",
            hint="`zoo plugins` says which families are installed; weights=PATH loads a file of your own as it is",
            path=path,
            sha256=digest,
        )
    for card, weights in result:
        if not digests.is_full(weights.sha256):
            pinned(cache.ref_path(card.family, card.name, weights.tag), digest, source=path.name)
    cache.make()
    file = file_name(result[0][1].urls[0])
    placed = cache.link(no_follow.real(path), digest, file) or _copied(cache, path, digest, file)
    for card, weights in result:
        entry = Entry(cache, cache.ref_path(card.family, card.name, weights.tag), None)
        strength = "declared" if weights.strength == "none" else weights.strength
        entry.keep(
            Artefact(placed, digest, no_follow.status(placed).st_size, path.absolute().as_uri(), strength, fetched=True)
        )
    return Adopted(placed, tuple(f"{card.id}@{weights.tag}" for card, weights in result), digest)


def _copied(cache: Cache, path: Path, digest: str, file: str) -> Path:
    """Copy a file of this machine that is reused into the cache, where it cannot be linked."""
    urls, place = (path.absolute().as_uri(),), cache.place
    return download(
        Request(path.name, urls, digest, file=file, folder=cache.arriving, place=place, read_only=True)
    ).path


def torch_hub_folder() -> Path:
    """Where ``torch.hub`` has its cache of checkpoints; without a home folder it is relative, and nothing is there."""
    hub = getattr(sys.modules.get("torch"), "hub", None)
    if hub is not None:  # a program may have moved it with torch.hub.set_dir
        return Path(hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return _expand(home) / "hub" / "checkpoints"


def hugging_face_folder() -> Path:
    """Where ``huggingface_hub`` has its cache; without a home folder it is relative, and nothing is there."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return _expand(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return _expand(os.environ.get("HF_HOME") or cache / "huggingface") / "hub"


def _expand(path: str | Path) -> Path:
    """Where another cache is, with its leading ``~`` replaced by the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - a leading "~" stays where there is no home folder
