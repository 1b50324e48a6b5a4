"""Images read and prepared by a pool of threads, a few ahead of the model that takes them."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.errors import ImageError, ZooError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from torch import Tensor

    from zoo_core.images.read import ReadImage
    from zoo_core.images.sources import Source

_MOST_WORKERS = 8
_LONGEST = 1000
"""How many times longer than wide an image may be: resizing makes its short side as long as the model's."""


@dataclass(frozen=True)
class Loaded:
    """One image ready for a model, or the reason why there is none.

    Attributes:
        name: What it is called.
        tensor: As the model takes it; None where it could not be read.
        size: Height and width before it was prepared.
        note: What was done to it that its user may not expect.
        error: Why it could not be read.
        original: The image as it was read, where it was to be kept.
    """

    name: str
    tensor: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    note: str = ""
    error: ZooError | None = None
    original: Any = None


def load_images(
    sources: Iterable[Source],
    reader: Callable[[Any, str], ReadImage],
    prepare: Callable[[Any], Tensor],
    *,
    num_workers: int | None = None,
    ahead: int = 32,
    keep: bool = False,
) -> Iterator[Loaded]:
    """Images in their order, read by threads: decoding and resizing leave Python's lock to others.

    Args:
        sources: What to read.
        reader: Item and name to a read image.
        prepare: A read image to a tensor.
        num_workers: Threads; None for one a core, up to 8, and 0 for none.
        ahead: How many images are in memory at most before they are taken.
        keep: Whether the image as it was read is kept with it.
    """

    def load(source: Source) -> Loaded:
        try:
            result = reader(source.item, source.name)
            _require_no_line(result.size, source.name)
            tensor = prepare(result.image)
        except ImageError as error:
            return Loaded(source.name, error=error)
        except ZooError as error:  # such as the wrong number of channels
            named = ImageError(f"{source.name}: {error.summary}", **error.parts, name=source.name)
            return Loaded(source.name, error=named)
        except (ArithmeticError, AttributeError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            # one odd image is not the end of a run over many
            reason = f"{type(error).__name__}: {error}"
            failed = ImageError(f"{source.name}: cannot be prepared for the model", cause=reason, name=source.name)
            return Loaded(source.name, error=failed)
        return Loaded(source.name, tensor, result.size, result.note, original=result.image if keep else None)

    count = min(os.cpu_count() or 1, _MOST_WORKERS) if num_workers is None else num_workers
    if not count:
        yield from map(load, sources)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="zoo-images") as pool:
        try:
            yield from _map_in_order(pool, load, sources, max(ahead, count))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _map_in_order(
    pool: ThreadPoolExecutor, load: Callable[[Source], Loaded], sources: Iterable[Source], ahead: int
) -> Iterator[Loaded]:
    """The results of the threads that load images, in order, at most ``ahead`` of them before they are taken."""
    waiting: deque[Future[Loaded]] = deque()
    for source in sources:
        waiting.append(pool.submit(load, source))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _require_no_line(size: tuple[int, int], name: str) -> None:
    """Refuse to load an image so long that resizing its short side would take all memory.

    Raises:
        ImageError: One side is more than a thousand times the other.
    """
    if max(size) > _LONGEST * min(size):
        raise ImageError(
            f"{name}: {size[0]}x{size[1]} is a line and no image",
            expected=f"sides of which one is at most {_LONGEST} times the other",
            hint="cut it, or use zoo.sliding_window, which does not resize",
            name=name,
        )


def in_batches(loaded: Iterable[Loaded], size: int, *, any_shape: bool = False) -> Iterator[list[Loaded]]:
    """Loaded images of one shape together, at most ``size`` of them, in order; those without a tensor go along.

    Args:
        loaded: Images.
        size: Of a batch.
        any_shape: Whether images of several shapes may be in one batch.

    Example:
        >>> import torch
        >>> images = [Loaded(str(i), torch.zeros(3, side, side)) for i, side in enumerate([8, 8, 8, 4])]
        >>> [[image.name for image in batch] for batch in in_batches(images, 2)]
        [['0', '1'], ['2'], ['3']]
    """
    batch: list[Loaded] = []
    shape = None
    for each in loaded:
        own = None if each.tensor is None or any_shape else each.tensor.shape
        if batch and (len(batch) == size or (own is not None and shape is not None and own != shape)):
            yield batch
            batch, shape = [], None
        batch.append(each)
        shape = own if own is not None else shape
    if batch:
        yield batch
