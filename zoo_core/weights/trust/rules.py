"""When bytes may be believed, and when the network may be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from zoo_core import settings
from zoo_core.errors import Offline, Untrusted, UsageError, close_matches, did_you_mean
from zoo_core.weights import digest as digests
from zoo_core.weights.transport.urls import is_loopback, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

Trust = Literal["first-use"]


def checked_trust(trust: str | None) -> None:
    """Refuse a word that is not one.

    Raises:
        UsageError: ``trust`` is neither None nor ``"first-use"``.
    """
    if trust not in (None, "first-use"):
        hint = did_you_mean(close_matches(str(trust), ["first-use"]), "leave it out")
        raise UsageError(f"trust={trust!r}", expected="None or 'first-use'", hint=hint)


def require_trust(urls: Sequence[str], sha256: str, trust: Trust | None = None) -> None:
    """Refuse bytes that nothing vouches for.

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
    if digests.is_full(sha256) or trust == "first-use" or (sha256 and not all(_in_the_clear(url) for url in urls)):
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


def _in_the_clear(url: str) -> bool:
    return urlsplit(url).scheme.lower() in ("http", "ftp") and not is_loopback(url)


def require_online(name: str, urls: Sequence[str]) -> None:
    """Refuse to open a socket when ``ZOO_OFFLINE`` is set.

    Args:
        name: The file that is missing.
        urls: Where it could be had.

    Raises:
        Offline: It is set.
    """
    if settings.offline():
        raise Offline(
            f"{name} is not in the cache, and ZOO_OFFLINE is set",
            done="no socket was opened",
            hint=f"unset ZOO_OFFLINE; or fetch {shown(urls[0])} elsewhere and bring it here "
            "with `zoo cache import FILE` or `zoo bundle import`; or build it untrained with weights=None",
            file=name,
            urls=tuple(urls),
        )
