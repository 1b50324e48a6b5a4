"""One HTTP request: redirects followed by us, ranges checked, and every way it can fail told apart."""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from http.client import responses
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from zoo_core import settings
from zoo_core.errors import ZooError
from zoo_core.weights.transport.any_source import Reply
from zoo_core.weights.transport.failures import Failure, Permanent, StaleRange, Transient, failure_of, proxy_for
from zoo_core.weights.transport.hub import hub_token, refusal
from zoo_core.weights.transport.session import Watchdog, session_for
from zoo_core.weights.transport.urls import host_of, is_ambiguous, is_loopback, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from urllib3.connection import HTTPConnection

    from zoo_core.weights.transport.policy import Policy

_HOPS = 10
_BLOCK = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_NUMBER = re.compile(r"[0-9]{1,19}")


class HttpSource:
    """A source over HTTP: a file on a web server.

    Args:
        url: Where it is, ``http://`` or ``https://``.
        policy: How patient to be.
        proven: Whether a whole digest is known, so that the bytes may cross the network in the clear.
    """

    def __init__(self, url: str, policy: Policy, *, proven: bool) -> None:
        self.url = url
        self._at = url
        self._policy = policy
        self._proven = proven
        self._watchdog: Watchdog | None = None
        self._decoded = False
        self._session = session_for(self.used)

    @property
    def route(self) -> str:
        """Where the last answer came from, in words: a redirect or a proxy on the way is part of most failures."""
        steps = (
            f"redirected to {shown(self._at)}" if self._at != self.url else "",
            f"through the proxy {shown(proxy)}, from the environment" if (proxy := proxy_for(self._at)) else "",
        )
        return ", ".join(filter(None, steps))

    def another(self) -> HttpSource:
        """Another line to the same file."""
        return HttpSource(self.url, self._policy, proven=self._proven)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @contextlib.contextmanager
    def read(self, offset: int, etag: str, end: int | None = None) -> Iterator[Reply]:
        """Ask for the bytes from ``offset`` on.

        Args:
            offset: How many bytes we have already.
            etag: The strong ETag of the file they came from, or ``""``.
            end: Where to stop, before the end of the file; a server may send more all the same.

        Raises:
            Transient: It may work when it is tried again.
            Permanent: It will not.
            StaleRange: What we have cannot be continued.
        """
        with Watchdog(self._policy) as self._watchdog, self._named_failures():
            response = self._follow(offset, etag, end)
            with contextlib.closing(response):
                yield self._reply(response, offset, end)

    def headers(self) -> Mapping[str, str]:
        """The headers of the last answer of the same host: there the Hugging Face hub declares digests.

        Raises:
            Transient: It may work when it is tried again.
            Permanent: It will not.
        """
        with Watchdog(self._policy) as self._watchdog, self._named_failures():
            url = self.url
            for _ in range(_HOPS):
                self._at = url
                self._require_safe(url)
                response = self._ask("HEAD", url)
                status = response.status_code
                if status in _TRY_AGAIN or status >= requests.codes.server_error:
                    raise Transient(_status(response))
                if status >= requests.codes.bad_request:
                    raise Permanent(_status(response))
                if status not in _REDIRECTS or "X-Linked-Etag" in response.headers:
                    return response.headers
                target = self._next(url, response)
                if host_of(target) != host_of(url):
                    return response.headers
                url = target  # the repository has another name now
            raise Permanent(f"more than {_HOPS} redirects")

    def _follow(self, offset: int, etag: str, end: int | None) -> requests.Response:
        headers = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"} if offset or end else {}
        if headers and etag:
            headers["If-Range"] = etag
        url, seen = self.url, [self.url]
        for _ in range(_HOPS):
            self._at = url
            self._require_safe(url)
            response = self._ask("GET", url, headers=headers, stream=True)
            if response.status_code not in _REDIRECTS:
                return response
            with contextlib.closing(response):
                url = self._next(url, response)
            if url in seen:
                raise Permanent(f"redirects in a circle, back to {shown(url)}")
            seen.append(url)
        raise Permanent(f"more than {_HOPS} redirects")

    def _ask(self, method: str, url: str, **options: Any) -> requests.Response:
        token = hub_token(url)
        auth = _Bearer(token) if token else None
        headers = {**options.pop("headers", {}), **_headers_for(url)}
        return self._session.request(
            method, url, auth=auth, headers=headers, allow_redirects=False, timeout=self._policy.timeout, **options
        )

    def _next(self, url: str, response: requests.Response) -> str:
        location = response.headers.get("Location")
        if not location:
            raise Permanent(f"status {response.status_code} without a Location")
        try:
            target = urljoin(url, _as_utf8(location).strip())
            scheme = urlsplit(target).scheme
        except ValueError as error:
            raise Permanent(f"redirects to something that is not a url: {error}") from error
        if scheme not in ("http", "https"):
            raise Permanent(f"redirects to {shown(target)}, which is not on the web")
        if scheme == "http" and urlsplit(url).scheme == "https":
            raise Permanent(f"redirects from https to plain http, {shown(target)}")
        return target

    def _require_safe(self, url: str) -> None:
        if is_ambiguous(url):
            raise Permanent(f"{shown(url)} can be read as naming one host or another")
        if not self._proven and urlsplit(url).scheme == "http" and not is_loopback(url):
            raise Permanent(f"{shown(url)} is plain http, and no full SHA-256 is known to prove what comes over it")

    def _reply(self, response: requests.Response, offset: int, end: int | None) -> Reply:
        status, headers = response.status_code, response.headers
        if status == requests.codes.requested_range_not_satisfiable and (offset or end):
            raise StaleRange("the server does not have the range that was requested")
        if status in _TRY_AGAIN or status >= requests.codes.server_error:
            raise Transient(_status(response), wait=_retry_after(headers.get("Retry-After")))
        if status not in (requests.codes.ok, requests.codes.partial_content):
            raise Permanent(_status(response))
        length = _length(headers)
        start, total = 0, length
        if status == requests.codes.partial_content:
            start, total = _content_range(headers.get("Content-Range", ""), offset, length)
        tag = headers.get("ETag", "")
        strong = tag if tag.startswith('"') else ""
        decode = self._is_encoded(headers.get("Content-Encoding", ""), start)
        ranges = not decode and (status == requests.codes.partial_content or headers.get("Accept-Ranges") == "bytes")
        return Reply(start, None if decode else total, strong, self._blocks(response, decode=decode), ranges)

    def _is_encoded(self, encoding: str, start: int) -> bool:
        """Whether to decode a body that is said to be encoded, although that was not requested.

        Some servers do encode it, and others only say so, of a ``.gz`` file for one. The digest knows, so each reading
        gets its turn.
        """
        if encoding.strip().lower() in ("identity", ""):
            return False
        if start:
            raise StaleRange("the rest is sent in an encoding that was not requested")
        self._decoded = not self._decoded
        return self._decoded

    def _blocks(self, response: requests.Response, *, decode: bool) -> Iterator[bytes]:
        """The body as it arrives; taken out of an encoding that the server applied although none was requested."""
        raw: Any = response.raw
        while block := raw.read1(_BLOCK, decode_content=decode):
            if self._watchdog:
                self._watchdog.feed(len(block))
            yield block
        if self._watchdog and self._watchdog.barked:  # a line that we closed looks like the end of the body
            raise self._too_slow()

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except ZooError:  # the disk's, which is an OSError too
            raise
        except Failure as failure:
            failure.route = self.route
            raise
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            met: Failure = self._too_slow() if self._watchdog and self._watchdog.barked else failure_of(error)
            met.route = self.route
            raise met from error

    def _too_slow(self) -> Transient:
        return Transient(f"sent less than {self._policy.min_speed:.0f} bytes a second", cost=2)

    def used(self, connection: HTTPConnection) -> None:
        """Called by each connection that is about to be used, so that the watchdog can hang up on it."""
        if self._watchdog:
            self._watchdog.follow(connection)


def _headers_for(url: str) -> dict[str, str]:
    """The headers from the settings for an HTTP request: over a protected line, and to its very host.

    Example:
        >>> import os
        >>> os.environ["ZOO_HEADERS"] = "https://example.org=X-Key: abc"
        >>> _headers_for("https://example.org/net.pth"), _headers_for("https://example.org.evil/net.pth")
        ({'X-Key': 'abc'}, {})
        >>> del os.environ["ZOO_HEADERS"]
    """
    if not (url.startswith("https://") or is_loopback(url)):
        return {}
    result = (header.partition(":") for base, header in settings.headers() if url.startswith(f"{base.rstrip('/')}/"))
    return {name: value.strip() for name, _, value in result}


class _Bearer(requests.auth.AuthBase):
    """Sends a token with an HTTP request to the host that it is for, and not where that is redirected to."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _as_utf8(text: str) -> str:
    """An HTTP header as its server meant it: read as Latin-1, and often written in UTF-8."""
    with contextlib.suppress(UnicodeError):
        return text.encode("latin-1").decode("utf-8")
    return text


def _status(response: requests.Response) -> str:
    """The status of an HTTP response in words, with the hub's advice where it has some."""
    name = responses.get(response.status_code, "")  # and not the server's words, which may repeat a key of the url
    said = f"status {response.status_code} {name}".rstrip()
    advice = refusal(response.url, response.headers.get("X-Error-Code", ""))
    return f"{said}; {advice}" if advice else said


def _length(headers: Any) -> int | None:
    """The length of an HTTP body that its headers announce, or None."""
    text = headers.get("Content-Length", "")
    return int(text) if _NUMBER.fullmatch(text) and "Transfer-Encoding" not in headers else None


def _content_range(text: str, offset: int, length: int | None) -> tuple[int, int | None]:
    """First byte and total length of an HTTP 206 response, checked against what was requested."""
    match = _RANGE.fullmatch(text.strip())
    if not match:
        raise StaleRange(f"status 206 with Content-Range {text[:80]!r}")
    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if start != offset or end < start or (length is not None and length != end - start + 1):
        raise StaleRange(f"requested bytes from {offset} on, and was sent {text!r}")
    return start, total


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait that an HTTP header ``Retry-After`` says, from a number or a date."""
    if not text:
        return None
    if _NUMBER.fullmatch(text.strip()):
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None
