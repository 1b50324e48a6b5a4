"""The catalogue of a library in another version than its plugin knows: made once, and remembered.

A plugin ships the cards of one version of its library. With another version installed, the plugin's own command reads
the library once, in a process of its own, so that listing models still imports neither torch nor the library here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING
from urllib.parse import quote

from zoo_core.contract.card_file import CardFile, write_cards
from zoo_core.errors import ZooWarning
from zoo_core.utils.paths import import_path

if TYPE_CHECKING:
    from zoo_core.contract.family import Family

_PATIENCE = 300
_COMMAND = "import sys; from zoo_core.registry.reindex import index; index(*sys.argv[1:])"


def remembered(family: Family, version: str, plugin: str) -> CardFile | None:
    """The catalogue of the installed version, reindexed now if it never was; None, with a warning, where that fails.

    Args:
        family: Whose catalogue it is.
        version: The version of its library.
        plugin: The plugin and its version: another one may index differently.

    Warns:
        ZooWarning: The library cannot be indexed.
    """
    from platformdirs import user_cache_path

    name = quote(f"{family.name} {version} {plugin}", safe=" ")
    try:  # in a folder for this user alone, as catalogues name functions that are called
        path = user_cache_path("zoo") / "catalogues" / f"{name}.jsonl"
        problem = "" if path.exists() else _reindex_problem(family, path)
    except RuntimeError as error:  # this user has no home folder
        problem = str(error)
    if not problem:
        return CardFile(path)
    warnings.warn(
        f"family {family.name!r} lists what another version of {family.requires} has: {version} cannot be indexed "
        f"({problem})",
        ZooWarning,
        stacklevel=5,
    )
    return None


def index(cards: str, path: str) -> None:
    """Reindex a library: write its catalogue to a file, whole or not at all.

    Args:
        cards: ``"package.module:function"``.
        path: Where to.
    """
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        made = Path(folder, "cards.jsonl")
        write_cards(made, resolve_name(cards)())
        made.replace(path)


def _reindex_problem(family: Family, path: Path) -> str:
    """Why a library cannot be indexed anew, or nothing when it has been; a reason is remembered in a text file."""
    told = path.with_suffix(".txt")
    try:
        if told.exists():
            return told.read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        problem = _indexing(family.index, path)
        if problem:
            problem = f"{problem}; remove {told} to try again"
            told.write_text(problem, encoding="utf-8")
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return problem


def _indexing(cards: str, path: Path) -> str:
    """Have the plugin's own command reindex the library in another process, which finds what this one finds."""
    done = subprocess.run(  # noqa: S603 - this python, and what the plugin says of itself
        [sys.executable, "-P", "-c", _COMMAND, cards, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(import_path())},
        capture_output=True,
        check=False,
        text=True,
        timeout=_PATIENCE,
    )
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
