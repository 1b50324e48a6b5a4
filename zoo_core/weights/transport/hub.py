"""What the Hugging Face hub says of a file: it declares the SHA-256 of each large file in the headers of its answer."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from zoo_core.weights import digest as digests
from zoo_core.weights.transport.failures import Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoo_core.weights.transport.policy import Policy

_FILE = re.compile(r"https?://[^/]+/[^/]+/[^/]+/resolve/[^/]+/.+")


def looks_like_hub(url: str) -> bool:
    """Whether a url has the form of a file on the hub, or on a mirror of it.

    Example:
        >>> looks_like_hub("https://huggingface.co/org/repo/resolve/main/model.safetensors")
        True
    """
    return _FILE.fullmatch(url) is not None


def declared_digest(url: str, policy: Policy) -> str:
    """The SHA-256 that the hub declares for a file, or ``""`` when it declares none.

    Args:
        url: A file on the hub.
        policy: How patient to be.

    Raises:
        Permanent: The hub does not have the file, or does not give it to us.
        Transient: It does not answer.
    """
    from zoo_core.weights.transport.http import HttpSource

    with contextlib.closing(HttpSource(url, policy, proven=False)) as source:
        headers = _patiently(source.headers, policy)
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    digest = etag.removeprefix("W/").strip('"').lower()
    return digest if digests.is_full(digest) else ""


def _patiently(ask: Callable[[], Mapping[str, str]], policy: Policy) -> Mapping[str, str]:
    for attempt in range(1, policy.attempts):
        try:
            return ask()
        except Transient:
            policy.sleep(policy.pause(attempt))
    return ask()
