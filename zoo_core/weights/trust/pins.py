"""What the bytes of some weights must be, and who says so: the lock, the card, or what was seen first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.errors import CacheError, DigestMismatch
from zoo_core.weights.cache.refs import read_ref

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.contract.card import Weights
    from zoo_core.weights.cache.refs import Ref
    from zoo_core.weights.trust.lock import Locked


def known_bytes(name: str, weights: Weights, ref_path: Path, locked: Locked | None) -> tuple[str, str, Ref | None]:
    """What the bytes of some weights must be.

    The lock decides, and the card must agree with it; without a lock, the card; and what the card leaves open, the ref
    of the first time fills in.

    Args:
        name: ``family/name@tag``.
        weights: What the card says.
        ref_path: The ref of the last time.
        locked: The entry of the lock.

    Returns:
        The whole digest, a prefix of it, or ``""`` when nothing says it; how much that proves, as in
        :class:`~zoo_core.weights.Artefact`; and the ref of the last time, when it agrees.

    Raises:
        DigestMismatch: The card and the lock disagree.
        CacheError: The ref is malformed, and its digest is the only one there is.
    """
    if locked and not _one_of(weights, locked.sha256):
        raise DigestMismatch(
            f"the digest of {name} has moved",
            expected=f"sha256 {locked.sha256} (zoo.lock, {locked.plugin or 'an unknown plugin'})",
            got=f"sha256 {weights.sha256} (the card of the installed plugin)",
            done="nothing was downloaded",
            cause="the plugin was updated since the lock was written",
            hint=f"`zoo lock --update {name}` accepts the new one",
            expected_digest=locked.sha256,
            got_digest=weights.sha256,
            source=weights.urls[0],
        )
    known = locked.sha256 if locked else weights.sha256
    try:
        ref = read_ref(ref_path)
    except CacheError:
        if not locked and weights.strength != "proven":  # its pin is lost, so that a forged file could not be told
            raise
        ref = None
    if ref and not (ref.sha256 == known if locked else _one_of(weights, ref.sha256)):
        ref = None
    strength: str = "proven" if locked else weights.strength
    if strength == "none":
        strength = ref.strength if ref else "first-use"
    return ref.sha256 if ref else known, strength, ref


def _one_of(weights: Weights, digest: str) -> bool:
    """Whether a whole digest can be that of one of the files that the weights are in."""
    return any(digest.startswith(file.sha256) for file in weights.files)
