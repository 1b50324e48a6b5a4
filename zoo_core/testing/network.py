"""A block of code that reaches no network, and whose attempts are told."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_network() -> Iterator[list[str]]:
    """Refuse every connection and every look-up of a name inside the block.

    Yields:
        What was requested, filled as it happens; a library may well catch the error and go on.

    Example:
        >>> with without_network() as attempts:
        ...     socket.create_connection(("example.org", 443))
        Traceback (most recent call last):
        ...
        OSError: no network while a model is built: example.org
        >>> attempts
        ['example.org']
    """
    attempts: list[str] = []

    def refuse(host: object, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401 - the signatures of the socket module
        name = host.decode() if isinstance(host, bytes) else str(host)
        attempts.append(name)
        msg = f"no network while a model is built: {name}"
        raise OSError(msg)

    def refuse_address(_: socket.socket, address: Any) -> NoReturn:  # noqa: ANN401 - as above
        refuse(address[0] if isinstance(address, tuple) else address)

    resolve = socket.getaddrinfo
    socket.getaddrinfo = refuse
    socket.socket.connect = refuse_address  # type: ignore[method-assign, assignment]  # its own is that of the class below it
    try:
        yield attempts
    finally:
        socket.getaddrinfo = resolve
        del socket.socket.connect
