"""The Hugging Face hub: which urls are its own, the token that it is sent, and what its refusals mean."""

from __future__ import annotations

import os
import re

from zoo_core.weights.transport.urls import is_loopback

_HUB = "https://huggingface.co"
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
