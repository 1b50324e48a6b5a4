"""What the Hugging Face hub says of a file in the headers of its answer: its SHA-256, and the commit that has it."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from zoo_core.weights import digest as digests
from zoo_core.weights.transport.failures import Transient
from zoo_core.weights.transport.http import HttpSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoo_core.weights.transport.policy import Policy

_COMMIT = re.compile(r"[0-9a-f]{40}")


def declared_digest(url: str, policy: Policy) -> str:
    """The SHA-256 that the hub declares in its headers for a file, or ``""`` when it declares none.

    Args:
        url: A file on the hub.
        policy: How patient to be.

    Raises:
        Permanent: The hub does not have the file, or does not give it to us.
        Transient: It does not answer.
    """
    return _digest_in(_headers(url, policy))


def commit_of(url: str, sha256: str, policy: Policy) -> str:
    """The commit at which the hub's headers say a file of that digest is now; ``""`` for none, or another file.

    Args:
        url: A file on the hub.
        sha256: The digest that it should have.
        policy: How patient to be.

    Raises:
        Permanent: The hub does not have the file, or does not give it to us.
        Transient: It does not answer.
    """
    headers = _headers(url, policy)
    commit = headers.get("X-Repo-Commit") or ""
    return commit if _digest_in(headers) == sha256 and _COMMIT.fullmatch(commit) else ""


def _headers(url: str, policy: Policy) -> Mapping[str, str]:
    """The headers that the hub sends about a file, without the file itself."""
    with contextlib.closing(HttpSource(url, policy, proven=False)) as source:
        return _patiently(source.headers, policy)


def _digest_in(headers: Mapping[str, str]) -> str:
    """The SHA-256 in the headers that the hub sends about a file; ``""`` for none."""
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    digest = etag.removeprefix("W/").strip('"').lower()
    return digest if digests.is_full(digest) else ""


def _patiently(ask: Callable[[], Mapping[str, str]], policy: Policy) -> Mapping[str, str]:
    """Ask the hub for the headers of a file, again as long as failures may pass."""
    for attempt in range(1, policy.attempts):
        try:
            return ask()
        except Transient:
            policy.sleep(policy.pause(attempt))
    return ask()
