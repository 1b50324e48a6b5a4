"""``obtain``: from a card and its weights to a proven file on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo_core.errors import Unreadable
from zoo_core.utils.paths import expand
from zoo_core.weights.cache.store import Cache, Entry
from zoo_core.weights.checkpoint.read import shards_in
from zoo_core.weights.request import Artefact, Request
from zoo_core.weights.transport.policy import Policy
from zoo_core.weights.trust.licenses import require_license
from zoo_core.weights.trust.lock import current_lock, require_preprocessing
from zoo_core.weights.trust.rules import checked_trust, known_bytes

if TYPE_CHECKING:
    from zoo_core.contract.card import Card, Weights


def obtain_file(path: str | os.PathLike[str]) -> Artefact:
    """Obtain a file that its user vouches for, in place of a proven one: it is neither cached nor hashed.

    Raises:
        Unreadable: There is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     obtain_file(file.name).strength
        'local'
    """
    file = expand(path).absolute()
    try:
        size = file.stat().st_size
    except OSError as error:
        raise Unreadable(f"{file} cannot be read", got=error.strerror or str(error), path=file) from error
    if not file.is_file() and not shards_in(file):
        raise Unreadable(f"{file} is not a file", expected="a .pth or .safetensors file", path=file)
    return Artefact(file, "", size, file.as_uri(), "local", fetched=False)


def obtain(
    card: Card,
    weights: Weights,
    *,
    progress: bool | None = None,
    trust: str | None = None,
    licenses: Sequence[str] | None = None,
    obey_lock: bool = True,
    cache: Cache | None = None,
    policy: Policy | None = None,
) -> Artefact:
    """The proven file of some weights: from the cache when it is there, else from the first source that has it.

    A hit opens no socket, and hashes nothing while the file is as it was when it was last hashed.

    Args:
        card: The model.
        weights: One of its weights.
        progress: Whether to show a progress bar; None means on a terminal.
        trust: ``"first-use"`` accepts weights that nothing vouches for; their digest is pinned from then on.
        licenses: The licences that are acceptable, see :func:`~zoo_core.weights.trust.licenses.require_license`.
        obey_lock: Whether the ``zoo.lock`` that is in force here decides what the bytes must be.
        cache: Where to keep it; None means the usual cache.
        policy: How patient to be.

    Raises:
        LicenseRefused: A licence was not accepted.
        DigestMismatch: No source had the right bytes, or the card and the lock disagree on them.
        FetchError: No source could be read.
        Offline: ``ZOO_OFFLINE`` is set and the file is not in the cache.
        Untrusted: Nothing says what the bytes should be.
        LockError: The lock is malformed, or was written for another preprocessing.
        CacheError: The cache cannot be used.
    """
    believed = checked_trust(trust)
    name = f"{card.id}@{weights.tag}"
    require_license(name, weights.licenses, licenses)
    cache = cache or Cache()
    ref_path = cache.ref_path(card.family, card.name, weights.tag)
    lock = current_lock() if obey_lock else None
    locked = lock.find(name) if lock else None
    require_preprocessing(locked, weights)
    sha256, strength, ref = known_bytes(name, weights, ref_path, locked, vouches_for=cache.vouches_for)
    entry = Entry(cache, ref_path, ref)
    if artefact := entry.find(sha256, strength):
        return artefact
    from zoo_core.weights.fetch_missing import fetch_missing

    request = Request(
        name,
        weights.urls,
        sha256,
        strength=strength,
        size=weights.size,
        folder=cache.arriving,
        place=cache.place,
        read_only=True,
        trust=believed,
        progress=progress,
        policy=policy or Policy(),
    )
    return fetch_missing(entry, weights, request)
