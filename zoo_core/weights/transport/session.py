"""A session of requests that leaves redirects to us, and hangs up on a server that only pretends to answer.

The read time-out of a socket starts again with every byte, so one byte a second, in the headers, in a chunk length or
in the body, would hold a reader for ever. A second thread looks at the clock instead, and closes the connection.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from zoo_core import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from zoo_core.weights.transport.policy import Policy


class _FinalResponse(http.client.HTTPResponse):
    """A response in a session that passes over interim ones such as 103 Early Hints.

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
    """A connection of a session that reports before and after it is made, and before each request on it."""

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
    """Makes the connections of a session, of our own kind, directly and through proxies."""

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
    """A session of requests that leaves redirects to its caller."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read the whole body of a redirect, even when told not to follow it."""


def session_for(used: Callable[[HTTPConnection], None]) -> requests.Session:
    """A session of requests that asks for bytes as they are, and tells of each connection that it uses.

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
    """Pools for a session whose connections call that function; urllib3 makes these of a class that has it."""
    told = {"used": staticmethod(used)}
    plain = type("Plain", (_Watched, HTTPConnection), told)
    secure = type("Secure", (_Watched, HTTPSConnection), told)
    return {
        "http": type("PlainPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


class Watchdog:
    """Watches a session's one attempt, and hangs up on a server that is too slow. Use it in a ``with`` statement.

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
    """The socket of a session's connection, to close it; of a proxy's TLS where one is inside another."""
    line = getattr(connection.sock, "socket", connection.sock)
    return line if isinstance(line, socket.socket) else None
