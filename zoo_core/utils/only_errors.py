"""``only_errors``: loggers of libraries that give advice to their own authors, quiet for a moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

PYTREE = "torch.utils._pytree"
"""Logger by which torch 2.15 warns, when torchao 0.18 is imported, that what it does with enums is deprecated."""


@contextmanager
def only_errors(name: str | None = None) -> Iterator[None]:
    """Inside the block, the logger of this name lets errors through alone; None for the root.

    Example:
        >>> with only_errors("some.library"):
        ...     logging.getLogger("some.library").warning("not shown")
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
