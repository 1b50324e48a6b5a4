"""A server that only pretends to answer is hung up on, wherever in its answer it dawdles.

The read time-out of a socket starts again with every byte, so one byte a second, in the headers, in a chunk length or
in the body, would hold a reader for ever. A second thread looks at the clock instead, and closes the connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from urllib3.connection import HTTPConnection

    from zoo_core.weights.transport.policy import Policy


class Watchdog:
    """Watches one attempt, and hangs up on a server that is too slow. Use it in a ``with`` statement.

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
    """The socket to close when the watchdog hangs up on a connection; of a proxy's TLS where one is inside another."""
    line = getattr(connection.sock, "socket", connection.sock)
    return line if isinstance(line, socket.socket) else None
