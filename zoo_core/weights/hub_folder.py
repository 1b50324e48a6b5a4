"""A saved model on the Hugging Face hub, as a folder here: ``hf://me/flowers@revision``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from zoo_core import settings
from zoo_core.errors import DigestMismatch, LockError, Offline, UsageError
from zoo_core.utils import no_follow
from zoo_core.weights.cache.store import Cache
from zoo_core.weights.digest import Stamp, has_noted, sha256_of
from zoo_core.weights.transport.hub import hub_client, hub_error
from zoo_core.weights.trust.lock import Locked, current_lock

SCHEME = "hf://"
RECIPE = "recipe.json"
_NAME = re.compile(r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_NOT_A_NAME = re.compile(r"--|\.\.|[-.](/|$)|\.git$")
"""What the hub takes in no name."""
_LONGEST = 96
_LARGEST = 16 << 20
"""Bytes of the largest recipe."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_IN_URL = re.compile(r"/resolve/([0-9a-f]{40})/")


def is_hub_name(name: object) -> bool:
    """Whether something names the folder of a save on the hub, as ``hf://owner/name``.

    Example:
        >>> is_hub_name("hf://me/flowers@main"), is_hub_name("me/flowers")
        (True, False)
    """
    return isinstance(name, str) and name.startswith(SCHEME)


def parse(name: str) -> tuple[str, str | None]:
    """The repository and the revision in the name of the folder of a save on the hub.

    Raises:
        UsageError: It is no such name.

    Example:
        >>> parse("hf://me/flowers@v1")
        ('me/flowers', 'v1')
    """
    match = _NAME.fullmatch(name)
    if match is None or _NOT_A_NAME.search(match["repo"]) or len(match["repo"]) > _LONGEST:
        raise UsageError(
            f"{name!r} is no name on the hub",
            expected="hf://owner/name, or hf://owner/name@revision",
            cause=None
            if match is None
            else f"the hub takes no '--', '..' or '.git', no '-' or '.' at an end, and at most {_LONGEST} characters",
        )
    return match["repo"], match["revision"]


def fetch_folder(name: str, *, obey_lock: bool = True) -> Path:
    """Fetch a save on the hub as a folder in the cache: recipe and tensors, at the commit of the revision.

    A revision that ``zoo.lock`` has is the commit that was locked, with the recipe that it had, which has the digest of
    the tensors. A commit of 40 digits that is here already is not requested again.

    Raises:
        Offline: ``ZOO_OFFLINE`` is set, and it is not here.
        FetchError: The hub does not give it.
        DigestMismatch: Its recipe is not the one that was locked.
        UsageError: It is no name on the hub.
        ZooError: huggingface_hub is not installed.
    """
    repo, revision = parse(name)
    lock = current_lock() if obey_lock else None
    locked = lock.find(_locked_name(repo, revision)) if lock else None
    if locked is not None:
        revision = _commit_of(locked)
    root = _root(repo)
    if revision and _COMMIT.fullmatch(revision) and _is_whole(root / revision, is_proven=locked is not None):
        folder = root / revision
    elif settings.offline():
        raise Offline(
            f"{name} is not here, and ZOO_OFFLINE is set",
            hint=f"{SCHEME}{repo}@COMMIT, with a commit that was fetched before, needs no network",
        )
    else:
        folder = _fetch(name, repo, revision, root)
    if locked is not None and sha256_of(folder / RECIPE) != locked.sha256:
        raise DigestMismatch(
            f"{name} is not what was locked",
            expected=f"sha256 {locked.sha256} of its {RECIPE} (zoo.lock)",
            got=f"sha256 {sha256_of(folder / RECIPE)}",
            hint=f"look into why; zoo lock --update {SCHEME}{repo} accepts what is there now",
            expected_digest=locked.sha256,
            got_digest=sha256_of(folder / RECIPE),
            source=locked.urls[0],
        )
    return folder


def lock_entry(name: str) -> Locked:
    """What ``zoo.lock`` says of the folder of a save on the hub: the commit it is at now, and its recipe's digest.

    Raises:
        FetchError: The hub does not give it.
    """
    repo, revision = parse(name)
    folder = fetch_folder(name, obey_lock=False)
    recipe = folder / RECIPE
    endpoint = str(hub_client().endpoint).rstrip("/")
    url = f"{endpoint}/{repo}/resolve/{folder.name}/{RECIPE}"
    return Locked(_locked_name(repo, revision), sha256_of(recipe), recipe.stat().st_size, RECIPE, (url,))


def fetched_already(locked: Locked) -> bool:
    """Whether the folder of a locked save on the hub has been fetched already, at the commit in the lock."""
    repo, _ = parse(locked.name)
    return _is_whole(_root(repo) / _commit_of(locked), is_proven=True)


def _root(repo: str) -> Path:
    """The folder in the cache with all commits of a save on the hub."""
    return Cache().root / "hub" / repo.replace("/", "--")


def _locked_name(repo: str, revision: str | None) -> str:
    """The name of a save on the hub in ``zoo.lock``."""
    return f"{SCHEME}{repo}@{revision or 'main'}"


def _commit_of(locked: Locked) -> str:
    """The commit of a save on the hub that an entry of the lock names."""
    match = _COMMIT_IN_URL.search(locked.urls[0])
    if match is None:
        raise LockError(
            f"zoo.lock names no commit for {locked.name}",
            expected=f"a url with /resolve/COMMIT/{RECIPE}",
            got=locked.urls[0],
            hint=f"zoo lock --update {locked.name}",
        )
    return match[1]


def _fetch(name: str, repo: str, revision: str | None, root: Path) -> Path:
    """Fetch recipe and tensors of a save from the hub into a folder named after the commit."""
    api = hub_client()
    try:
        commit = str(api.model_info(repo, revision=revision).sha)
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"its commit is {commit!r:.60}")  # noqa: TRY301 - named below with the rest
        folder = root / commit
        if not _is_whole(folder):
            no_follow.make_folder(folder)
            if not _is_believed(folder):  # with what the client would take for its own notes
                shutil.rmtree(folder)
                no_follow.make_folder(folder)
            api.hf_hub_download(repo, RECIPE, revision=commit, local_dir=folder)
            file = _tensors_in(folder)["file"]
            if not isinstance(file, str) or "/" in file or file.startswith("."):
                raise ValueError(f"its tensors are in {file!r}")  # noqa: TRY301 - as above
            (folder / file).unlink(missing_ok=True)  # one of another length, which the client would take for whole
            api.hf_hub_download(repo, file, revision=commit, local_dir=folder)
            Cache().note(folder / RECIPE, sha256_of(folder / RECIPE), Stamp.of(folder / RECIPE))
    except Exception as error:  # the client raises its own errors, and those of its transport
        said = "check the name and revision; HF_TOKEN for a private repository"
        raise hub_error(f"{name} could not be fetched", error, name, said) from error
    return folder


def _is_whole(folder: Path, *, is_proven: bool = False) -> bool:
    """Whether the folder of a save on the hub has its recipe, and tensors as long as that says.

    Args:
        folder: Of a commit.
        is_proven: Whether the digest of the recipe is known, so that it does not matter who put the folder there.
    """
    try:
        tensors = _tensors_in(folder)
        length = (folder / str(tensors["file"])).stat().st_size
        return bool(length == tensors.get("size", length)) and (is_proven or _is_believed(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_believed(folder: Path) -> bool:
    """Whether a folder from the hub is what the hub gave; one in a cache that came with a checkout may be anything."""
    try:
        return not Cache().is_only_found or has_noted(folder / RECIPE, sha256_of(folder / RECIPE))
    except OSError:
        return False


def _tensors_in(folder: Path) -> Any:
    """What a folder on the hub says of its tensors, in the recipe there.

    Raises:
        ValueError: It is no recipe.
    """
    recipe = folder / RECIPE
    try:
        if (size := recipe.stat().st_size) > _LARGEST:
            raise ValueError(f"its recipe has {size} bytes")
        return json.loads(recipe.read_bytes())["tensors"]
    except RecursionError as error:
        raise ValueError("its recipe is nested too deeply") from error
