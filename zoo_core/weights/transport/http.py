"""HTTP: redirects followed by us, ranges checked, and every way a request can fail told apart.

The read time-out of a socket starts again with every byte, so one byte a second, in the headers, in a chunk length or
in the body, would hold a reader for ever. A second thread looks at the clock instead, and closes the connection.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from zoo_core import __version__, settings
from zoo_core.errors import ZooError
from zoo_core.weights.transport.failures import Failure, Permanent, StaleRange, Transient, failure_of, http_status
from zoo_core.weights.transport.hub import hub_token
from zoo_core.weights.transport.source_protocol import Reply
from zoo_core.weights.transport.urls import host_of, is_ambiguous, is_loopback, shown

if TYPE_CHECKING:
    from zoo_core.weights.transport.policy import Policy

_HOPS = 10
_BLOCK = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_NUMBER = re.compile(r"[0-9]{1,19}")


class HttpSource:
    """A file on a web server, requested over HTTP: with redirects followed by us, and with its ranges checked.

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
                    raise Transient(http_status(response))
                if status >= requests.codes.bad_request:
                    raise Permanent(http_status(response))
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
        auth = _bearer(token) if token else None
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
            raise Transient(http_status(response), wait=_retry_after(headers.get("Retry-After")))
        if status not in (requests.codes.ok, requests.codes.partial_content):
            raise Permanent(http_status(response))
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


def proxy_for(url: str) -> str:
    """The proxy that an HTTP request goes through: the one that the environment has for a url; ``""`` for none."""
    try:
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) or ""
    except ValueError:  # it is no url, which is the failure that is being told
        return ""
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"  # as requests reads it


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


def _bearer(token: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """What adds a token to an HTTP request to the host that it is for, and not to where that is redirected to."""

    def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return signed


def _as_utf8(text: str) -> str:
    """An HTTP header as its server meant it: read as Latin-1, and often written in UTF-8."""
    with contextlib.suppress(UnicodeError):
        return text.encode("latin-1").decode("utf-8")
    return text


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


class _FinalResponse(http.client.HTTPResponse):
    """A response over HTTP that passes over interim ones such as 103 Early Hints.

    Refuses an answer that gives two lengths.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # the one place where it can be done
            if not 100 < status < 200 or status == requests.codes.switching_protocols:  # noqa: PLR2004 - the interim ones
                return version, status, reason
            http.client.parse_headers(self.fp)

    def begin(self) -> None:
        super().begin()
        lengths = ",".join(self.headers.get_all("Content-Length", [])).split(",")
        if len({length.strip() for length in lengths}) > 1:  # urllib3 would see it too, and leave the line open
            raise http.client.HTTPException(f"it gives lengths that contradict each other: {lengths}")


class _Watched:
    """A connection over HTTP that reports before and after it is made, and before each request on it."""

    response_class = _FinalResponse
    used: Callable[[HTTPConnection], None]

    def connect(self) -> None:
        self.used(self)  # type: ignore[arg-type]  # it is mixed into connections only
        super().connect()  # type: ignore[misc]
        self.used(self)  # type: ignore[arg-type]

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.used(self)  # type: ignore[arg-type]
        super().request(*args, **kwargs)  # type: ignore[misc]


class _Adapter(HTTPAdapter):
    """Makes the HTTP connections of a session, of our own kind, directly and through proxies."""

    def __init__(self, pools: dict[str, type[urllib3.HTTPConnectionPool]]) -> None:
        self._pools = pools
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class _Session(requests.Session):
    """A session of HTTP requests that leaves redirects to its caller."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read the whole body of a redirect, even when told not to follow it."""


def session_for(used: Callable[[HTTPConnection], None]) -> requests.Session:
    """A session of HTTP requests that requests bytes as they are, and reports each connection that it uses.

    Args:
        used: Called with a connection before it is made, and before each request on it.
    """
    session = _Session()
    adapter = _Adapter(_pools(used))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # Where REQUESTS_CA_BUNDLE says nothing, which requests reads itself.
    session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"zoo-core/{__version__}"})
    return session


def _pools(used: Callable[[HTTPConnection], None]) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Pools of HTTP connections that call that function; urllib3 makes these of a class that has it."""
    told = {"used": staticmethod(used)}
    plain = type("Plain", (_Watched, HTTPConnection), told)
    secure = type("Secure", (_Watched, HTTPSConnection), told)
    return {
        "http": type("PlainPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


class Watchdog:
    """Watches one HTTP request, and hangs up on a server that is too slow. Use it in a ``with`` statement.

    Args:
        policy: How slow is too slow.

    Attributes:
        barked: Whether it hung up.
    """

    def __init__(self, policy: Policy) -> None:
        self.barked = False
        self._policy = policy
        self._received = 0
        self._connections: list[HTTPConnection] = []
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="zoo-watchdog", daemon=True)

    def __enter__(self) -> Self:
        # Where this process may have no more threads, the time-outs of the sockets are all there is.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def follow(self, connection: HTTPConnection) -> None:
        """Hang up on this connection too when the attempt is too slow.

        Called before and after it is made: an answer that ends with the connection, as in HTTP/1.0 or after
        ``Connection: close``, takes the socket away from it before its body is read.
        """
        if connection not in self._connections:
            self._connections.append(connection)
        if (line := _socket_of(connection)) and line not in self._sockets:
            self._sockets.append(line)

    def feed(self, count: int) -> None:
        """Count bytes that have arrived."""
        self._received += count

    def _watch(self) -> None:
        window = self._policy.timeout
        before = self._received
        while not self._over.wait(window):
            if self._received - before < self._policy.min_speed * window:
                self.barked = True
                self._hang_up()
                return
            before = self._received

    def _hang_up(self) -> None:
        deadline = time.monotonic() + self._policy.timeout
        while not self._over.wait(0.1) and time.monotonic() < deadline:
            for line in (*self._sockets, *filter(None, map(_socket_of, self._connections))):
                with contextlib.suppress(OSError):
                    # Not the method of an SSL socket: that one also forgets its session, under the reader's feet.
                    socket.socket.shutdown(line, socket.SHUT_RDWR)


def _socket_of(connection: HTTPConnection) -> socket.socket | None:
    """The socket of an HTTP connection, to close it; of a proxy's TLS where one is inside another."""
    line = getattr(connection.sock, "socket", connection.sock)
    return line if isinstance(line, socket.socket) else None


def headers_of(url: str, policy: Policy) -> Mapping[str, str]:
    """The headers that an HTTP server sends about a file, without the file itself.

    The request is repeated as long as failures may pass.

    Raises:
        Permanent: The server does not have the file, or does not give it to us.
        Transient: It does not answer.
    """
    with contextlib.closing(HttpSource(url, policy, proven=False)) as source:
        for attempt in range(1, policy.attempts):
            try:
                return source.headers()
            except Transient:
                policy.sleep(policy.pause(attempt))
        return source.headers()
