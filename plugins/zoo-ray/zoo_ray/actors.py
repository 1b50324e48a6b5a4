"""Actors that embed images, each with a copy of the model, and the rows that they give, in the order of the images.

Ray's own actors and not Ray Data's: the images are an iterator without an end, their order is that of the rows, and
what was written decides what is left to do. Ray Data would collect the first, and knows nothing of the last.
"""

from __future__ import annotations

import os
from collections import deque
from importlib import import_module
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_IN_FLIGHT = 2
"""Tasks of each actor: one that runs, and one whose images are there when it is done."""
_BATCHES = 4
"""Batches of a task: so few that little is done again after a crash, and so many that asking costs nothing."""


class _Actor:
    """One copy of the model, which embeds; Ray starts it anew where it dies, and gives it its tasks again."""

    def __init__(self, embedder: Any, device: str) -> None:  # noqa: ANN401 - zoo's own
        embedder.model.to(device)
        self.embedder = embedder

    def rows(self, sources: list[Any]) -> list[Any]:
        return list(self.embedder.run(sources))


def rows(embedder: Any, sources: Iterable[Any]) -> Iterator[Any]:  # noqa: ANN401 - zoo's own
    """Embed images by Ray's actors: a row for each, in order.

    Args:
        embedder: A model that is ready to embed, on the CPU or on a device of this machine.
        sources: Images with their labels; taken as they are needed.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # or it sends the current folder to every worker
    ray: Any = import_module("ray")  # a heavy library, without which this module can be read
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    resources = ray.cluster_resources()
    kind, device = ("GPU", "cuda") if resources.get("GPU") else ("CPU", "cpu")
    before = next((each.device for each in embedder.model.parameters()), "cpu")
    embedder.model.to("cpu")  # a machine of the cluster may have no such device
    shared = ray.put(embedder)
    embedder.model.to(before)
    needs = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
    start = ray.remote(max_restarts=-1, max_task_retries=-1, **needs)(_Actor)
    actors = [start.remote(shared, device) for _ in range(max(1, int(resources.get(kind, 1))))]
    try:
        size = embedder.batch_size * _BATCHES
        for task in _in_order(cycle(actors), len(actors) * _IN_FLIGHT, iter(sources), size):
            yield from ray.get(task)
    finally:
        for actor in actors:
            ray.kill(actor)


def _in_order(actors: Iterator[Any], at_once: int, sources: Iterator[Any], size: int) -> Iterator[Any]:
    """Tasks of the actors in the order of their images, so many of them at once."""
    waiting: deque[Any] = deque()
    while True:
        while len(waiting) < at_once and (chunk := list(islice(sources, size))):
            waiting.append(next(actors).rows.remote(chunk))
        if not waiting:
            return
        yield waiting.popleft()
