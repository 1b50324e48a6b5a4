"""``fetch``: one proven file in a folder of the caller's choice."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from zoo_core.errors import UsageError
from zoo_core.utils import no_follow
from zoo_core.utils.paths import expand
from zoo_core.weights import digest as digests
from zoo_core.weights.download.disk import aside, disk_errors, move_aside, read_error, refuse_odd
from zoo_core.weights.download.from_sources import fetch_once
from zoo_core.weights.download.partial import sweep
from zoo_core.weights.request import Artefact, Request
from zoo_core.weights.transport.policy import DEFAULT_TIMEOUT, Policy, checked_timeout
from zoo_core.weights.transport.urls import needs_network, shown
from zoo_core.weights.trust.rules import require_online, require_trust

_SPARE = 86400.0
"""Seconds for which a download of something else into the same folder may lie dead: its process may yet continue it."""


def fetch(
    url: str,
    dest: str | os.PathLike[str],
    *,
    sha256: str,
    size: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    progress: bool | None = False,
    policy: Policy | None = None,
) -> Path:
    """Fetch one proven file into a folder of the caller's choice, unless it is there already.

    It is named after the url and the digest, never after what a server says. A second call with a good file there
    hashes it and opens no socket; a bad file there is moved aside, fetched again, and removed when that is done.

    Args:
        url: Where it is: ``https://``, ``http://``, ``file://``, ``package://``, or a scheme that fsspec knows.
        dest: The folder, made if it is missing.
        sha256: The digest, in hex: all 64 digits, or at least the first 8.
        size: Its length in bytes, if you know it; nothing longer is ever accepted.
        timeout: Seconds of silence after which an attempt has failed.
        progress: Whether to show a progress bar; None means on a terminal.
        policy: Everything else about patience, in place of ``timeout``.

    Returns:
        The path of a file in ``dest`` with that digest.

    Raises:
        DigestMismatch: Bytes came, but not the right ones; nothing is kept.
        FetchError: The bytes could not be had; what had arrived is continued by the next call.
        Untrusted: Nothing says what the bytes should be.
        Offline: ``ZOO_OFFLINE`` is set and the file is not there.
        CacheError: The folder cannot be written, or something that is not a plain file is in the way.
        UsageError: An argument is malformed.

    Example:
        >>> import hashlib, pathlib, tempfile
        >>> source = pathlib.Path(tempfile.mkdtemp(), "net.pth")
        >>> _ = source.write_bytes(b"weights")
        >>> path = fetch(source.as_uri(), tempfile.mkdtemp(), sha256=hashlib.sha256(b"weights").hexdigest())
        >>> path.name, path.read_bytes()
        ('net-9a129038d9a00aed.pth', b'weights')
    """
    expected = _checked(url, sha256, size, timeout)
    require_trust((url,), expected)
    dest = _folder(dest)
    folder = no_follow.real(dest)
    request = Request(
        shown(url),
        (url,),
        expected,
        size=size,
        folder=folder,
        place=lambda _digest, _file: final,
        progress=progress,
        policy=policy or Policy(timeout=timeout),
    )
    final = folder / request.stem
    if _good(final, expected):
        return dest / _tidied(final).name
    if needs_network(url):
        require_online(final.name, (url,))
    with disk_errors(folder):
        no_follow.make_folder(folder)
    path = fetch_once(request, lambda: _existing(request, final)).path
    return dest / _tidied(path).name


def _existing(request: Request, final: Path) -> Artefact | None:
    """The file to fetch, if another process has brought it into the caller's folder."""
    path = _good(final, request.sha256)
    return Artefact(path, "", no_follow.status(path).st_size, "", request.strength, fetched=False) if path else None


def _tidied(final: Path) -> Path:
    """The path in the caller's folder of the file, once dead downloads and a bad file beside it are removed."""
    sweep(final.parent, whole=final.name, spare=_SPARE)
    with contextlib.suppress(OSError):
        no_follow.unlink(aside(final))
    return final


def _folder(dest: str | os.PathLike[str]) -> Path:
    """The folder in which the caller of ``fetch`` wants the file, as an absolute path."""
    folder = expand(dest).absolute()
    try:
        os.fsencode(folder)
    except UnicodeEncodeError as error:
        raise UsageError(f"not a folder: {dest!r}", cause=str(error), dest=dest) from error
    return folder


def _checked(url: str, sha256: str, size: int | None, timeout: float) -> str:
    """The digest to fetch a file to a folder by, in lower case, when every argument of ``fetch`` makes sense."""
    try:
        scheme = urlsplit(url).scheme
        url.encode()
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"not a url: {url!r}", cause=str(error), url=url) from error
    if not scheme or not isinstance(url, str):
        raise UsageError(f"not a url: {url!r}", expected="https://..., file:///..., or package://...", url=url)
    digest = str(sha256 or "").strip().lower().removeprefix("sha256:")
    if digest and not digests.is_digest(digest):
        raise UsageError(f"not a SHA-256: {sha256!r}", expected="64 hex digits, or at least the first 8", sha256=sha256)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise UsageError(f"not a size in bytes: {size!r}", expected="an integer, or None")
    checked_timeout(timeout)
    return digest


def _good(final: Path, digest: str) -> Path | None:
    """The file in the folder of ``fetch`` if it has the right bytes; one with others is moved aside."""
    refuse_odd(final)
    try:
        got, stamp = digests.steady_digest(final)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(final, error) from error
    if digests.agrees(got, digest):
        return final
    move_aside(final, stamp)
    return None
