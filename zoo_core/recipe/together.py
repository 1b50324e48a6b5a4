"""Saving a model whose tensors several processes hold together: one of them writes, and all end alike."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import distributed

from zoo_core.errors import WeightsError
from zoo_core.surgery.sharded import gathered, is_sharded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def whole(model: nn.Module) -> Iterator[nn.Module | None]:
    """The model itself; for one that is sharded a twin with whole tensors on the first process, and None on the others.

    Where the model is sharded the block is one for all processes: when the first fails in it, all raise.
    """
    if not is_sharded(model):
        yield model
        return
    writes = distributed.get_rank() == 0
    twin = gathered(model, keep=writes)
    failure: list[str | None] = [None]
    try:
        yield twin if writes else None
    except BaseException as error:
        failure = [str(error) or type(error).__name__]
        raise
    finally:
        distributed.broadcast_object_list(failure, src=0)
        if failure[0] and not writes:
            raise WeightsError(f"the first process could not save: {failure[0]}")
