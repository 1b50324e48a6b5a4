"""Weights: fetch, prove, cache and read them.

``obtain`` turns a card and its weights into a proven file, ``read_state_dict`` turns a file into tensors, and ``fetch``
brings one proven file into a folder. Nothing here imports torch but the reader.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.weights.cache.store import Cache as Cache
    from zoo_core.weights.checkpoint.read import read_state_dict as read_state_dict
    from zoo_core.weights.fetch_to_folder import fetch as fetch
    from zoo_core.weights.proven_file import obtain as obtain
    from zoo_core.weights.proven_file import obtain_file as obtain_file
    from zoo_core.weights.request import Artefact as Artefact

_PUBLIC = {
    "fetch": "zoo_core.weights.fetch_to_folder",
    "obtain": "zoo_core.weights.proven_file",
    "obtain_file": "zoo_core.weights.proven_file",
    "Artefact": "zoo_core.weights.request",
    "Cache": "zoo_core.weights.cache.store",
    "read_state_dict": "zoo_core.weights.checkpoint.read",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name of the weights package when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
