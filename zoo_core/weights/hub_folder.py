"""A saved model on the Hugging Face hub, as a folder here: ``hf://me/flowers@revision``."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from zoo_core import settings
from zoo_core.errors import FetchError, Offline, UsageError, ZooError
from zoo_core.utils import no_follow
from zoo_core.weights.cache.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

SCHEME = "hf://"
RECIPE = "recipe.json"
_NAME = re.compile(r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_name(name: object) -> bool:
    """Whether something is the name of a save on the hub.

    Example:
        >>> is_hub_name("hf://me/flowers@main"), is_hub_name("me/flowers")
        (True, False)
    """
    return isinstance(name, str) and name.startswith(SCHEME)


def parse(name: str) -> tuple[str, str | None]:
    """The repository and the revision in the name of a save on the hub.

    Raises:
        UsageError: It is no such name.

    Example:
        >>> parse("hf://me/flowers@v1")
        ('me/flowers', 'v1')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name!r} is no name on the hub", expected="hf://owner/name, or hf://owner/name@revision")
    return match["repo"], match["revision"]


def client() -> Any:  # noqa: ANN401 - huggingface_hub's
    """What talks to the hub, or to what ``HF_ENDPOINT`` names in its place.

    Raises:
        ZooError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ZooError("the hub needs huggingface_hub", hint="pip install 'zoo-core[hub]'") from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="zoo")


def fetch_folder(name: str) -> Path:
    """The recipe and the tensors of a save on the hub, in the cache, under the commit that the revision is now.

    A commit of 40 digits that is here already is not asked for again.

    Raises:
        Offline: ``ZOO_OFFLINE`` is set, and it is not here.
        FetchError: The hub does not give it.
        UsageError: It is no name on the hub.
        ZooError: huggingface_hub is not installed.
    """
    repo, revision = parse(name)
    root = Cache().root / "hub" / repo.replace("/", "--")
    if revision and _COMMIT.fullmatch(revision) and _is_whole(root / revision):
        return root / revision
    if settings.offline():
        raise Offline(
            f"{name} is not here, and ZOO_OFFLINE is set",
            hint=f"{SCHEME}{repo}@COMMIT, with a commit that was fetched before, needs no network",
        )
    api = client()
    try:
        commit = str(api.model_info(repo, revision=revision).sha)
        folder = root / commit
        if not _is_whole(folder):
            no_follow.make_folder(folder)
            api.hf_hub_download(repo, RECIPE, revision=commit, local_dir=folder)
            file = json.loads((folder / RECIPE).read_text(encoding="utf-8"))["tensors"]["file"]
            if not isinstance(file, str) or "/" in file or file.startswith("."):
                raise ValueError(f"its tensors are in {file!r}")  # noqa: TRY301 - named below with the rest
            api.hf_hub_download(repo, file, revision=commit, local_dir=folder)
    except Exception as error:  # the client raises its own errors, and those of its transport
        reason = str(error).strip().partition("\n")[0]
        raise FetchError(
            f"{name} could not be fetched",
            cause=f"{type(error).__name__}: {reason}",
            hint="check the name and revision; HF_TOKEN for a private repository",
            attempts=((name, reason),),
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        file = json.loads((folder / RECIPE).read_text(encoding="utf-8"))["tensors"]["file"]
        return (folder / str(file)).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False
