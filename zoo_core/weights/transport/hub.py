"""What the Hugging Face hub says of a file: it declares the SHA-256 of each large file in the headers of its answer."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from zoo_core.weights import digest as digests
from zoo_core.weights.transport.failures import Transient
from zoo_core.weights.transport.urls import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoo_core.weights.transport.policy import Policy

_HUB = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"(https?://[^/]+/[^/]+/[^/]+)/resolve/[^/]+/.+")


def looks_like_hub(url: str) -> bool:
    """Whether a url has the form of a file on the hub, or on a mirror of it.

    Example:
        >>> looks_like_hub("https://huggingface.co/org/repo/resolve/main/model.safetensors")
        True
    """
    return _FILE.fullmatch(url) is not None


def is_hub(url: str) -> bool:
    """Whether a url is on the hub itself, or on what ``HF_ENDPOINT`` names in its place."""
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    return any(url.startswith(f"{base.rstrip('/')}/") for base in (_HUB, endpoint))


def hub_is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` is set, which forbids to ask the hub, and it alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_token(url: str) -> str:
    """The token to send with a request: ``HF_TOKEN`` to the hub itself, over a protected line, and else none."""
    safe = url.startswith("https://") or is_loopback(url)
    return os.environ.get("HF_TOKEN", "").strip() if safe and is_hub(url) else ""


def refusal(url: str, code: str) -> str:
    """What to do about a file that the hub does not give to us; ``""`` where nothing is known.

    Args:
        url: The file.
        code: What the hub says in ``X-Error-Code``.
    """
    match = _FILE.fullmatch(url)
    if code == "GatedRepo" and match:
        token = "HF_TOKEN has no access yet" if hub_token(url) else "set HF_TOKEN to a token of yours"
        return f"its repository is gated: accept the licence at {match[1]}; {token}"
    if code == "RepoNotFound":
        return "there is no such repository, or it is private: set HF_TOKEN to a token that may read it"
    return ""


def declared_digest(url: str, policy: Policy) -> str:
    """The SHA-256 that the hub declares for a file, or ``""`` when it declares none.

    Args:
        url: A file on the hub.
        policy: How patient to be.

    Raises:
        Permanent: The hub does not have the file, or does not give it to us.
        Transient: It does not answer.
    """
    return _digest_in(_headers(url, policy))


def commit_of(url: str, sha256: str, policy: Policy) -> str:
    """The commit at which the hub has a file of that digest now; ``""`` where it says none, or has another file.

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


def at_commit(url: str, commit: str) -> str:
    """The url of the same file at a commit, where it stays whatever is done to a branch.

    Example:
        >>> at_commit("https://huggingface.co/timm/net/resolve/main/model.safetensors", "abc")
        'https://huggingface.co/timm/net/resolve/abc/model.safetensors'
    """
    return re.sub(r"/resolve/[^/]+/", f"/resolve/{commit}/", url, count=1)


def _headers(url: str, policy: Policy) -> Mapping[str, str]:
    from zoo_core.weights.transport.http import HttpSource

    with contextlib.closing(HttpSource(url, policy, proven=False)) as source:
        return _patiently(source.headers, policy)


def _digest_in(headers: Mapping[str, str]) -> str:
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
