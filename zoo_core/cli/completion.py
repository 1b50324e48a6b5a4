"""What a shell completes on the command line: names of models, of weights in the cache, and of families."""

from __future__ import annotations


def complete_model(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Shell completion: the names of models that begin as what was typed."""
    from zoo_core.registry.zoo import current_zoo

    names = current_zoo().list(f"{incomplete}*")
    return [*names, *(name.partition("/")[2] for name in names if "/" not in incomplete)]


def complete_kept(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Shell completion: the names of weights in the cache that begin as what was typed."""
    from zoo_core.weights.cache.inventory import contents
    from zoo_core.weights.cache.store import Cache

    return [item.name for item in contents(Cache())[0] if item.name.startswith(incomplete)]


def complete_family(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Shell completion: the names of families that begin as what was typed."""
    from zoo_core.registry.zoo import current_zoo

    return [name for name in current_zoo().order if name.startswith(incomplete)]
