"""Embedding for zoo on a Ray cluster: ``zoo embed --engine ray``, or ``zoo.embed(..., engine="ray")``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["embed_engine"]


def embed_engine(embedder: Any, sources: Iterable[Any]) -> Iterator[Any]:
    """The engine that the package zoo-ray adds to ``zoo.embed``: rows of images, in order, from a cluster's actors.

    Args:
        embedder: A model that is ready to embed.
        sources: Images with their labels.
    """
    from zoo_ray.cluster import rows

    return rows(embedder, sources)
