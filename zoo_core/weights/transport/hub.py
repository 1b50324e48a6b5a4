"""The Hugging Face hub: which urls are its own, the token that it is sent, its client, and what its answers mean."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_core.errors import FetchError, ZooError
from zoo_core.weights import digest as digests
from zoo_core.weights.transport.urls import is_loopback

_HUB = "https://huggingface.co"
_LONGEST_TOKEN = 500
_ON = {"1", "ON", "YES", "TRUE"}
"""Values that switch on what the hub's own client reads from the environment."""
_FILE = re.compile(r"(https?://[^/]+/[^/]+/[^/]+)/resolve/[^/]+/.+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HINTS = {
    "GatedRepoError": "accept its conditions on its page, and set HF_TOKEN to a token of that account",
    "RepositoryNotFoundError": "check owner and name; where it is private, set HF_TOKEN to a token with access to it",
    "RevisionNotFoundError": "check the branch, tag or commit after the @",
    "EntryNotFoundError": "it has to be what zoo.push shared: a recipe.json and its tensors",
    "ConnectError": "check the network and HF_ENDPOINT; a commit that was fetched before needs neither",
    "TransportError": "try again; if it fails the same way, check the network and HF_ENDPOINT",
}
"""What to do, by the error of the hub's client or of its transport."""
_NO_ACCESS = "set HF_TOKEN to a token with access to this repository; to push, it needs write access"
_HINTS_BY_STATUS = {
    401: _NO_ACCESS,
    403: _NO_ACCESS,
    429: "wait a few minutes, and try again: there were too many requests",
    **dict.fromkeys((500, 502, 503, 504), "try again later: the hub cannot answer now"),
}


def looks_like_hub(url: str) -> bool:
    """Whether a url has the form of a file on the Hugging Face hub, or on a mirror of it.

    Example:
        >>> looks_like_hub("https://huggingface.co/org/repo/resolve/main/model.safetensors")
        True
    """
    return _FILE.fullmatch(url) is not None


def is_hub(url: str) -> bool:
    """Whether a url is on the Hugging Face hub itself, or on what ``HF_ENDPOINT`` names in its place."""
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    return any(url.startswith(f"{base.rstrip('/')}/") for base in (_HUB, endpoint))


def hub_is_offline() -> bool:
    """Whether the Hugging Face hub is not to be contacted, and it alone: its own switch ``HF_HUB_OFFLINE`` is on."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON


def hub_token(url: str) -> str:
    """The token to send with a request to the hub itself, over a protected line; ``""`` for any other, or without one.

    It is ``HF_TOKEN``, or else what ``hf auth login`` has kept, unless ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` forbids that.
    """
    safe = url.startswith("https://") or is_loopback(url)
    if not (safe and is_hub(url)):
        return ""
    return os.environ.get("HF_TOKEN", "").strip() or _kept_token()


def _kept_token() -> str:
    """The token for the hub in the file that ``hf auth login`` writes."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _ON:
        return ""
    base = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    try:
        path = Path(os.environ.get("HF_TOKEN_PATH") or Path(base, "token")).expanduser()
        with path.open(encoding="ascii") as file:
            token = file.read(_LONGEST_TOKEN).strip()
    except (OSError, ValueError, RuntimeError):  # there is none, or no home folder, or it is no text
        return ""
    return token if token.isprintable() else ""


def refusal(url: str, code: str) -> str:
    """What to do about a file that the hub does not give to us; ``""`` where nothing is known.

    Args:
        url: The file.
        code: What the hub says in ``X-Error-Code``.
    """
    match = _FILE.fullmatch(url)
    if code == "GatedRepo" and match:
        has_none = "set HF_TOKEN to a token of yours, or `hf auth login`"
        token = "your token has no access yet" if hub_token(url) else has_none
        return f"its repository is gated: accept the licence at {match[1]}; {token}"
    if code == "RepoNotFound":
        return "there is no such repository, or it is private: set HF_TOKEN to a token with access to it"
    return ""


def at_commit(url: str, commit: str) -> str:
    """The url of a file on the hub at a commit, where it stays whatever is done to a branch.

    Example:
        >>> at_commit("https://huggingface.co/timm/net/resolve/main/model.safetensors", "abc")
        'https://huggingface.co/timm/net/resolve/abc/model.safetensors'
    """
    return re.sub(r"/resolve/[^/]+/", f"/resolve/{commit}/", url, count=1)


def declared_digest(headers: Mapping[str, str]) -> str:
    """The SHA-256 that the hub declares for a file; ``""`` for none.

    Args:
        headers: What it sends about the file, see :func:`~zoo_core.weights.transport.http.headers_of`.
    """
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    digest = etag.removeprefix("W/").strip('"').lower()
    return digest if digests.is_full(digest) else ""


def commit_of(headers: Mapping[str, str], sha256: str) -> str:
    """The commit at which the hub has a file of that digest now; ``""`` for none, or another file."""
    commit = headers.get("X-Repo-Commit") or ""
    return commit if declared_digest(headers) == sha256 and _COMMIT.fullmatch(commit) else ""


def hub_error(summary: str, error: Exception, name: str, hint: str) -> FetchError:
    """The error for what the Hugging Face hub's client could not fetch or push; it says what to do."""
    reason = str(error).strip().partition("\n")[0]
    kind = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _HINTS), "")
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = _HINTS.get(kind) or _HINTS_BY_STATUS.get(status or 0, hint)
    return FetchError(summary, cause=f"{type(error).__name__}: {reason}", hint=said, attempts=((name, reason),))


def hub_client() -> Any:
    """The Hugging Face hub's own client, for the hub or what ``HF_ENDPOINT`` names in its place.

    Raises:
        ZooError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ZooError("the hub needs huggingface_hub", hint="pip install 'zoo-core[hub]'") from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="zoo")
