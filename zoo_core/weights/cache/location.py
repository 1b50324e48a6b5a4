"""Where the cache is: ``ZOO_CACHE``, a tagged ``weights_cache`` in a checkout, or the user's folder of the platform."""

from __future__ import annotations

import contextlib
from pathlib import Path

from zoo_core import settings
from zoo_core.errors import CacheError
from zoo_core.utils import no_follow
from zoo_core.utils.atomic_write import write_anew
from zoo_core.utils.paths import and_above, expand
from zoo_core.utils.private_files import believed, pass_over

FOLDER = "weights_cache"
TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""The first bytes of a cache tag, see https://bford.info/cachedir/."""


def cache_folder(start: Path | None = None) -> Path:
    """The location of the weights cache: a folder, which need not exist yet.

    ``ZOO_CACHE`` if it is set, else a ``weights_cache`` with a ``CACHEDIR.TAG`` in this folder or one of its parents,
    else the user's cache folder of the platform.

    Args:
        start: Where to begin to look; the current folder when None.

    Raises:
        CacheError: There is none of these, since this user has no home folder.

    Example:
        >>> import os, tempfile
        >>> os.environ["ZOO_CACHE"] = tempfile.mkdtemp()
        >>> str(cache_folder()) == os.environ.pop("ZOO_CACHE")
        True
    """
    if chosen := settings.cache_dir():
        return expand(chosen).absolute()
    if folder := _in_a_checkout(start):
        return folder
    from platformdirs import user_cache_path

    with contextlib.suppress(RuntimeError):  # of a container whose user is only a number
        folder = user_cache_path("zoo") / FOLDER
        if folder.is_absolute():
            return folder
    raise CacheError(
        "there is no folder for the weights cache",
        cause="HOME is not set, and this user has no entry in the password file",
        hint="set ZOO_CACHE to a folder that can be written",
        path=None,
    )


def is_only_found(root: Path) -> bool:
    """Whether a cache's location is in the checkout that we are in, or said by a ``zoo.toml`` there."""
    if chosen := settings.cache_dir():
        return not settings.may_vouch("cache") and no_follow.real(expand(chosen).absolute()) == root
    folder = _in_a_checkout()
    return folder is not None and no_follow.real(folder) == root


def _in_a_checkout(start: Path | None = None) -> Path | None:
    """The nearest ``weights_cache``, in this folder or above, that is a cache of this user."""
    for folder in and_above(start):
        path = str(folder / FOLDER)
        if not _is_tagged(folder / FOLDER):
            continue
        if (folder / FOLDER).is_symlink():  # which a checkout may hold: it leads anywhere
            pass_over(path, "it is a symbolic link", "ZOO_CACHE")
        elif believed(path, "ZOO_CACHE"):
            return folder / FOLDER
    return None


def _is_tagged(folder: Path) -> bool:
    """Whether a folder has the ``CACHEDIR.TAG`` by which the cache is found."""
    try:
        if not (folder / TAG).is_file():  # a pipe would be waited for
            return False
        with (folder / TAG).open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def write_tag(folder: Path) -> None:
    """Mark the folder of a new cache with a ``CACHEDIR.TAG``, by which it is found and backups may leave it out.

    Raises:
        OSError: The folder cannot be written.
    """
    try:
        no_follow.status(folder / TAG)
    except FileNotFoundError:
        text = "\n# This folder is zoo's weights cache. Everything in it can be fetched again.\n"
        write_anew(folder / TAG, SIGNATURE.decode() + text)
