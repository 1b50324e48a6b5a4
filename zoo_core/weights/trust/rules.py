"""What the bytes of some weights must be and who says so; when they may be believed, and when the network be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from zoo_core import settings
from zoo_core.errors import CacheError, DigestMismatch, Offline, Untrusted, UsageError
from zoo_core.text import close_matches, did_you_mean
from zoo_core.weights import digest as digests
from zoo_core.weights.cache.refs import Ref, read_ref
from zoo_core.weights.transport.urls import is_loopback, shown

if TYPE_CHECKING:
    from zoo_core.contract.card import Weights
    from zoo_core.weights.trust.lock import Locked


Trust = Literal["first-use"]


def checked_trust(trust: str | None) -> Trust | None:
    """The ``trust=`` of the caller, when it is a word that the rules of trust have.

    Raises:
        UsageError: ``trust`` is neither None nor ``"first-use"``.
    """
    if trust not in (None, "first-use"):
        hint = did_you_mean(close_matches(str(trust), ["first-use"]), "leave it out")
        raise UsageError(f"trust={trust!r}", expected="None or 'first-use'", hint=hint)
    return "first-use" if trust else None


def require_trust(urls: Sequence[str], sha256: str, trust: Trust | None = None) -> None:
    """Refuse bytes that the rules of trust do not believe, since nothing vouches for them.

    A whole digest vouches for any source. A prefix can be forged in minutes, so it counts only where the line itself
    is protected; plain http is not, except on this machine's own loopback address. Nothing vouches for nothing.

    Args:
        urls: Where the bytes would come from; one that is good enough is enough.
        sha256: The digest, a prefix of it, or ``""``.
        trust: ``"first-use"`` believes what comes first.

    Raises:
        Untrusted: No url is good enough.

    Example:
        >>> require_trust(["http://example.org/net-5c106cde.pth"], "5c106cde")
        Traceback (most recent call last):
        ...
        zoo_core.errors.Untrusted: nothing proves what http://example.org/net-5c106cde.pth serves
          expected: its full SHA-256, because the url is plain http
          got: only its first 8 digits, which can be forged
          done: nothing was downloaded
          next step: pin the full digest with `zoo lock`, name an https mirror, or say trust="first-use"
    """
    if digests.is_full(sha256) or trust == "first-use" or (sha256 and not all(_is_plain_http(url) for url in urls)):
        return
    reason = "because the url is plain http" if sha256 else "because nothing else vouches for the bytes"
    raise Untrusted(
        f"nothing proves what {', '.join(shown(url) for url in urls)} serves",
        expected=f"its full SHA-256, {reason}",
        got=f"only its first {len(sha256)} digits, which can be forged" if sha256 else "no digest",
        done="nothing was downloaded",
        hint='pin the full digest with `zoo lock`, name an https mirror, or say trust="first-use"',
        urls=tuple(urls),
        sha256=sha256,
    )


def _is_plain_http(url: str) -> bool:
    """Whether the rules of trust require a whole digest, not a prefix, as a URL is plain http or ftp."""
    return urlsplit(url).scheme.lower() in ("http", "ftp") and not is_loopback(url)


def require_online(name: str, urls: Sequence[str], *, passed_over: Path | None = None) -> None:
    """The rule of ``ZOO_OFFLINE``: refuse weights for which a socket would have to be opened.

    Args:
        name: The file that is missing.
        urls: Where it could be had.
        passed_over: A cache that has it, and is not believed because it was only found.

    Raises:
        Offline: It is set.
    """
    if settings.offline():
        raise Offline(
            f"{name} is not in the cache, and ZOO_OFFLINE is set",
            done="no socket was opened",
            cause=f"{passed_over} has it, but came with the checkout: it vouches for nothing" if passed_over else None,
            hint=(f"ZOO_CACHE={passed_over} believes that cache; or " if passed_over else "")
            + f"unset ZOO_OFFLINE; or fetch {shown(urls[0])} elsewhere and bring it here "
            "with `zoo cache import FILE` or `zoo bundle import`; "
            "or build it untrained with weights=None (--weights none)",
            file=name,
            urls=tuple(urls),
        )


def known_bytes(
    name: str, weights: Weights, ref_path: Path, locked: Locked | None, *, vouches_for: Callable[[Ref], bool]
) -> tuple[str, str, Ref | None]:
    """What the bytes of some weights must be, by the rules: what the lock says, else the card, else the first ref.

    The lock decides, and the card must agree with it; without a lock, the card; and what the card leaves open, the ref
    of the first time fills in.

    Args:
        name: ``family/name@tag``.
        weights: What the card says.
        ref_path: The ref of the last time.
        locked: The entry of the lock.
        vouches_for: Whether a ref counts where neither the lock nor the card has the whole digest.

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
    if ref and not locked and weights.strength != "proven" and not vouches_for(ref):
        ref = None
    strength: str = "proven" if locked else weights.strength
    if strength == "none":
        strength = ref.strength if ref else "first-use"
    return ref.sha256 if ref else known, strength, ref


def _one_of(weights: Weights, digest: str) -> bool:
    """Whether the rules allow a whole digest: that of one of the files that the weights are in, by the card."""
    return any(digest.startswith(file.sha256) for file in weights.files)
