"""A pause for the garbage collector while a model is built and loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the garbage collector inside the block.

    Building makes thousands of objects that stay, and each collection on the way looks at everything that torch and the
    model's library have ever made: a tenth of a second, several times. Threads may overlap: whichever switched
    collection off switches it on again.

    Example:
        >>> with no_collection():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
