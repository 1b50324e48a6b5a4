"""What can be told from a url alone, and where the settings move it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote, urlsplit, urlunsplit

from zoo_core import settings

_LONGEST_NAME = 120
_AMBIGUOUS = re.compile(r"[^/?#]*//[^/?#]*[\\\s\x00-\x1f\x7f]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def shown(url: str) -> str:
    """The url for a message: without a password, and without a query that may hold a key.

    Example:
        >>> shown("https://me:secret@example.org/net.pth?token=abc")
        'https://example.org/net.pth'
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return re.sub(r"//.*@", "//", url.partition("?")[0])
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def without_password(url: str) -> str:
    """The url without the user and the password before its host; its query stays, for it may say which file is meant.

    Example:
        >>> without_password("https://me:secret@example.org/net.pth?download=true")
        'https://example.org/net.pth?download=true'
    """
    return re.sub(r"^([^/?#]*//)[^/?#]*@", r"\1", url)


def is_ambiguous(url: str) -> bool:
    r"""Whether readers of urls differ in which host it names: what sends a request may not be what judges it.

    Example:
        >>> is_ambiguous("https://elsewhere.example\\@example.org/net.pth"), is_ambiguous("https://example.org/net.pth")
        (True, False)
    """
    return _AMBIGUOUS.match(url) is not None


def host_of(url: str) -> str:
    """The host of a url and its port, or its scheme for one that has no host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return shown(url)
    return parts.netloc.rpartition("@")[2] or f"{parts.scheme}://"


def below(base: str, path: str) -> str:
    """The url of a path below another url, whose query, such as a signature, is kept.

    Example:
        >>> below("https://example.org/zoo?sig=abc", "refs/a@b")
        'https://example.org/zoo/refs/a@b?sig=abc'
    """
    try:
        parts = urlsplit(base)
    except ValueError:  # who reads it says so
        return f"{base}/{path}"
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{path}", parts.query, ""))


def is_loopback(url: str) -> bool:
    """Whether the url names this machine itself, so that its bytes never cross a network.

    Example:
        >>> is_loopback("http://127.0.0.1:8000/net.pth"), is_loopback("http://example.org/net.pth")
        (True, False)
    """
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def needs_network(url: str) -> bool:
    """Whether a socket is needed to reach a url, by its scheme."""
    return url.partition(":")[0].lower() not in ("file", "package")


def file_name(url: str) -> str:
    """A plain file name for what is at that url, safe on every system; ``"weights"`` if the url suggests none.

    Only the url that the caller gave decides, never a server.

    Example:
        >>> file_name("https://example.org/a/net-5c106cde.pth?download=true")
        'net-5c106cde.pth'
        >>> file_name("https://example.org/%2e%2e%2fetc%2fpasswd")
        'etc_passwd'
    """
    try:
        path = urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1]
    except ValueError:  # who fetches it says so
        return "weights"
    name = re.sub(r"[^A-Za-z0-9._+=@-]+", "_", unquote(path)).lstrip("._-").rstrip(". ")
    if _RESERVED.fullmatch(name):
        name = f"_{name}".lstrip("_") + "_"
    if len(name) > _LONGEST_NAME:
        stem, dot, suffix = name.rpartition(".")
        name = (stem or name)[: _LONGEST_NAME - 20] + (dot + suffix[:15] if stem else "")
    return name or "weights"


def rewritten(url: str) -> str:
    """The url that is read in place of another one, as the ``rewrite`` setting moves it."""
    return next((new + url[len(old) :] for old, new in settings.rewrites() if url.startswith(old)), url)
