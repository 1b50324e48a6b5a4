"""Where the cache is."""

from __future__ import annotations

import contextlib
from pathlib import Path

from zoo_core import settings
from zoo_core.errors import CacheError
from zoo_core.utils.paths import expand
from zoo_core.utils.private_files import believed

FOLDER = "weights_cache"
TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""The first bytes of a cache tag, see https://bford.info/cachedir/."""


def cache_folder(start: Path | None = None) -> Path:
    """The folder of the weights cache; it need not exist yet.

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
    for folder in _from(start):
        if _is_tagged(folder / FOLDER) and believed(str(folder / FOLDER), "ZOO_CACHE"):
            return folder / FOLDER
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


def _from(start: Path | None) -> tuple[Path, ...]:
    """A folder and its parents; none when it is the current folder and that has been removed."""
    try:
        here = (start or Path.cwd()).absolute()
    except OSError:
        return ()
    return (here, *here.parents)


def _is_tagged(folder: Path) -> bool:
    try:
        with (folder / TAG).open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def write_tag(folder: Path) -> None:
    """Mark a new cache folder as one that backups may leave out.

    Raises:
        OSError: The folder cannot be written.
    """
    if not (folder / TAG).exists():
        text = "\n# This folder is zoo's weights cache. Everything in it can be fetched again.\n"
        (folder / TAG).write_bytes(SIGNATURE + text.encode())
