"""What the exceptions of requests and urllib3 mean: try again, or do not."""

from __future__ import annotations

import re

import requests
import urllib3

from zoo_core.weights.transport.failures import Failure, Permanent, Transient, WrongContent

_REFUSED = re.compile(r"Tunnel connection failed: 4\d\d")


def failure_of(error: Exception) -> Failure:
    """What an exception of requests or urllib3 means for the next attempt.

    Args:
        error: The exception.
    """
    if isinstance(error, urllib3.exceptions.DecodeError):
        return WrongContent("is not in the encoding that it is said to be in")
    return _permanent(error) or _transient(error)


def proxy_for(url: str) -> str:
    """The proxy that the environment names for a url, or ``""``."""
    try:
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) or ""
    except ValueError:  # it is no url, which is the failure that is being told
        return ""
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"  # as requests reads it


def _permanent(error: Exception) -> Permanent | None:
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        reason = _reason(error)
        return Permanent(
            f"its certificate is not trusted: {reason}; REQUESTS_CA_BUNDLE can name a company's own authority"
        )
    if type(error) is OSError and "CA certificate" in str(error):  # requests itself, of a path that is not there
        return Permanent(f"{error}; REQUESTS_CA_BUNDLE names it")
    if "[X509" in str(error):
        return Permanent(f"the authorities that REQUESTS_CA_BUNDLE names cannot be read: {_reason(error)}")
    if isinstance(error, requests.exceptions.ProxyError) and _REFUSED.search(_reason(error)):
        return Permanent(f"the proxy refuses: {_reason(error)}")
    if isinstance(error, ValueError) and not isinstance(error, requests.exceptions.InvalidHeader):
        return Permanent(f"not a usable url: {_reason(error)}")
    return None


def _transient(error: Exception) -> Transient:
    if isinstance(error, requests.exceptions.ProxyError):
        return Transient(f"the proxy does not let us through: {_reason(error)}")
    if "IncompleteRead" in str(error):
        return Transient("the connection closed too early")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return Transient("no answer in time", cost=2)
    return Transient(_reason(error))


def _reason(error: BaseException) -> str:
    """The innermost reason, without the layers that wrapped it."""
    inner = error
    while nested := next((item for item in _inside(inner) if isinstance(item, BaseException)), None):
        inner = nested
    text = str(inner).partition("\n")[0]
    return re.sub(r"^\w+\(host=.*?\): ", "", text) or type(inner).__name__


def _inside(error: BaseException) -> tuple[object, ...]:
    return (getattr(error, "reason", None), *error.args[:2])
