"""A session of requests whose connections can be watched, and that leaves redirects and encodings to us."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from zoo_core import __version__

if TYPE_CHECKING:
    from collections.abc import Callable


class _FinalResponse(http.client.HTTPResponse):
    """Passes over interim answers such as 103 Early Hints, of which the standard library knows only 100 Continue."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # the one place where it can be done
            if not 100 < status < 200 or status == requests.codes.switching_protocols:  # noqa: PLR2004 - the interim ones
                return version, status, reason
            http.client.parse_headers(self.fp)


def session_for(used: Callable[[HTTPConnection], None]) -> requests.Session:
    """A session that asks for the bytes as they are, and tells of each connection that it uses.

    Args:
        used: Called with a connection before it is made, and before each request on it: a kept one serves many.
    """

    class Plain(HTTPConnection):
        response_class = _FinalResponse

        def connect(self) -> None:
            used(self)
            super().connect()

        def request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - what urllib3 passes
            used(self)
            super().request(*args, **kwargs)

    class Secure(HTTPSConnection):
        response_class = _FinalResponse

        def connect(self) -> None:
            used(self)
            super().connect()

        def request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - what urllib3 passes
            used(self)
            super().request(*args, **kwargs)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - what requests passes
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what requests passes
            manager = super().proxy_manager_for(*args, **kwargs)
            manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
            return manager

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """None: requests would read the whole body of a redirect, even when told not to follow it."""

    session = Session()
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"zoo-core/{__version__}"})
    return session
