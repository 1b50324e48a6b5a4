"""What is installed, found by looking into the folders of ``sys.path``.

``importlib.metadata`` does this too, and its import alone takes twice as long as the start of python. A look into each
folder and each file of entry points is so quick that nothing needs to be kept from one process to the next, and what is
never kept is never out of date. Where distributions are found in another way, in zip files or through an import hook,
``importlib.metadata`` is used.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.metadata import Distribution

GROUP = "zoo_core"
_SUFFIXES = (".dist-info", ".egg-info")


@dataclass(frozen=True)
class Found:
    """An entry point of a plugin, as ``importlib.metadata.EntryPoint``, whose names it uses.

    Attributes:
        name: What the plugin is called.
        value: ``"package.module"`` or ``"package.module:attribute"``.
        folder: The metadata of the distribution that it is from.
    """

    name: str
    value: str
    folder: str

    @property
    def module(self) -> str:
        """The module of ``value``."""
        return self.value.partition(":")[0]

    @property
    def dist(self) -> Distribution:
        """The distribution, read now."""
        from importlib.metadata import Distribution
        from pathlib import Path

        return Distribution.at(Path(self.folder))

    def load(self) -> Any:
        """Import what it names."""
        return resolve_name(self.value)


def plugin_entries() -> tuple[Any, ...]:
    """The entry points in the group ``zoo_core``; of two distributions of one name the first on ``sys.path`` counts."""
    if not _can_read_folders():
        from importlib.metadata import entry_points

        return tuple(entry_points(group=GROUP))
    _folders.cache_clear()
    return tuple(entry for folder in _folders(tuple(sys.path)).values() for entry in _entries(folder))


def is_installed(distribution: str) -> bool:
    """Whether a distribution is installed where entry points are looked for, however its name is spelt.

    Example:
        >>> is_installed("Torch"), is_installed("a-missing-library")
        (True, False)
    """
    if _normalized(distribution) in _folders(tuple(sys.path)):
        return True
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as read

    try:
        read(distribution)
    except PackageNotFoundError:
        return False
    return True


def version_of(distribution: str) -> str | None:
    """The version of a distribution whose entry points would be found, however it is spelt; None when not installed.

    Example:
        >>> version_of("Torch").count(".") >= 2, version_of("a-missing-library")
        (True, None)
    """
    folder = _folders(tuple(sys.path)).get(_normalized(distribution), "")
    version = os.path.basename(folder).removesuffix(".dist-info").partition("-")[2]  # noqa: PTH119 - as below
    if version and folder.endswith(".dist-info"):
        return version
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as read

    try:
        return read(distribution)
    except PackageNotFoundError:
        return None


def _can_read_folders() -> bool:
    """Whether entry points can be read from folders: all distributions lie in some, as pip and uv put them."""
    if any(path and os.path.isfile(path) for path in sys.path):  # noqa: PTH113 - Path is not imported for this
        return False
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_distributions"))
    return all(getattr(finder, "__module__", "").startswith("_frozen_importlib") for finder in finders)


@lru_cache(maxsize=1)
def _folders(paths: tuple[str, ...]) -> dict[str, str]:
    """The metadata folder of each distribution, where its entry points are, by its name as it is compared."""
    result: dict[str, str] = {}
    for path in paths:
        for name in _names_in(path or "."):
            if name.endswith(_SUFFIXES):
                folder = os.path.join(path, name)  # noqa: PTH118 - the folders of sys.path are texts
                result.setdefault(_normalized(name.rpartition(".")[0].partition("-")[0]), folder)
    return result


def _names_in(path: str) -> Iterable[str]:
    """Names in a folder of ``sys.path`` where entry points may be; none where it cannot be read."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - as above
    except OSError:
        return ()


def _normalized(name: str) -> str:
    """Name of an installed distribution, normalized to compare it: runs of ``-``, ``_`` and ``.`` are one ``-``."""
    parts = name.lower().replace("_", "-").replace(".", "-").split("-")
    return "-".join(part for part in parts if part)


def _entries(folder: str) -> Iterator[Found]:
    """The entry points of plugins in the metadata folder of one distribution."""
    try:
        with open(os.path.join(folder, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123
            content = file.read()
    except OSError:
        return
    if GROUP.encode() not in content:
        return
    inside = False
    for line in content.decode("utf-8", "replace").splitlines():
        if line.startswith("["):
            inside = line.strip() == f"[{GROUP}]"
        elif inside:
            name, equals, value = line.partition("[")[0].partition("=")
            if equals and not name.lstrip().startswith(("#", ";")):
                yield Found(name.strip(), value.strip(), folder)
