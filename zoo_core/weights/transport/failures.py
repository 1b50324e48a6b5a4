"""How one attempt to get bytes can go wrong. Private to this room: what leaves it is a WeightsError."""

from __future__ import annotations

import os
import re
from http.client import responses

import requests
import urllib3

from zoo_core.weights.transport.hub import refusal


class Failure(Exception):
    """The failure of one attempt to get bytes; the text says why, in words for a user.

    Attributes:
        route: Where the answer came from, where that is not the host of the request; added to the text.
    """

    route = ""

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.route})" if self.route else super().__str__()


class Transient(Failure):
    """A failure that may not come again when the attempt is repeated.

    Args:
        reason: Why it failed.
        cost: How much of the budget of attempts it used: more when it took long to notice.
        wait: For how many seconds the server wants no further request.
    """

    def __init__(self, reason: str, *, cost: int = 1, wait: float | None = None) -> None:
        super().__init__(reason)
        self.cost = cost
        self.wait = wait


class Permanent(Failure):
    """A failure that will come again when the attempt is repeated in the same way."""


class WrongContent(Failure):
    """The failure of an attempt that brought bytes, but none that can be those of the file.

    Args:
        reason: Why they cannot.
        again: Whether the source may be tried once more from the first byte.
    """

    def __init__(self, reason: str, *, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class StaleRange(Failure):
    """The failure to continue what has arrived; start again from the first byte."""


_REFUSED = re.compile(r"Tunnel connection failed: 4\d\d")


def failure_of(error: Exception) -> Failure:
    """The failure, transient or permanent, that an exception of requests or urllib3 means."""
    if isinstance(error, urllib3.exceptions.DecodeError):
        return WrongContent("is not in the encoding that it is said to be in")
    return _permanent(error) or _transient(error)


def _permanent(error: Exception) -> Permanent | None:
    """The permanent failure that an exception means, if it does: certificate, proxy or url are not usable."""
    reason = _of_authorities(error) or _of_proxy(error)
    if not reason and isinstance(error, ValueError) and not isinstance(error, requests.exceptions.InvalidHeader):
        reason = f"not a usable url: {_reason(error)}"
    return Permanent(reason) if reason else None


def _of_authorities(error: Exception) -> str:
    """Why an attempt failed for its certificate or the authorities that are trusted; ``""`` where it did not."""
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        advice = "REQUESTS_CA_BUNDLE or SSL_CERT_FILE can name a company's own authority"
        return f"its certificate is not trusted: {_reason(error)}; {advice}"
    if type(error) is OSError and "CA certificate" in str(error):  # requests itself, of a path that is not there
        return f"{error}; {_authorities()} names it"
    if "[X509" in str(error):
        return f"the authorities that {_authorities()} names cannot be read: {_reason(error)}"
    return ""


def _of_proxy(error: Exception) -> str:
    """Why one attempt to get bytes went wrong for good at a proxy; ``""`` where it did not."""
    if isinstance(error, requests.exceptions.ProxyError) and _REFUSED.search(_reason(error)):
        return f"the proxy refuses: {_reason(error)}"
    if "Missing dependencies for SOCKS" in str(error):
        return "the proxy speaks SOCKS, which needs a library: pip install 'requests[socks]'"
    return ""


def _authorities() -> str:
    """The variable that names the trusted authorities, to tell when a certificate fails."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return next((name for name in names if os.environ.get(name)), names[0])


def _transient(error: Exception) -> Transient:
    """The transient failure that an exception means, when it means no permanent one."""
    if isinstance(error, requests.exceptions.ProxyError):
        return Transient(f"the proxy does not let us through: {_reason(error)}")
    if "IncompleteRead" in str(error):
        return Transient("the connection closed too early")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return Transient("no answer in time", cost=2)
    return Transient(_reason(error))


def _reason(error: BaseException) -> str:
    """The innermost reason why an attempt failed, without the layers that wrapped it."""
    inner = error
    while nested := next((item for item in _inside(inner) if isinstance(item, BaseException)), None):
        inner = nested
    text = str(inner).partition("\n")[0]
    return re.sub(r"^\w+\(host=.*?\): ", "", text) or type(inner).__name__


def _inside(error: BaseException) -> tuple[object, ...]:
    """What an exception wraps, where the reason of a failure is looked for."""
    return (getattr(error, "reason", None), *error.args[:2])


def http_status(response: requests.Response) -> str:
    """Why a response is a failure: its HTTP status by number and name, with the hub's advice where it has some."""
    name = responses.get(response.status_code, "")  # and not the server's words, which may repeat a key of the url
    said = f"status {response.status_code} {name}".rstrip()
    advice = refusal(response.url, response.headers.get("X-Error-Code", ""))
    return f"{said}; {advice}" if advice else said
