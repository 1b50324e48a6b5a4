"""A Ray cluster whose actors embed images, each with a copy of the model; their rows are in the order of the images.

Ray's own actors and not Ray Data's: the images are an iterator without an end, their order is that of the rows, and
what was written decides what is left to do. Ray Data would collect the first, and knows nothing of the last.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from zoo_core import errors

_IN_FLIGHT = 2
"""Tasks of each actor: one that runs, and one whose images are there when it is done."""
_AHEAD = 8
"""Tasks for each actor that may be done before the one whose rows come next: a slow actor does not stop the others."""
_BATCHES = {"CPU": 1, "GPU": 4}
"""Batches of a task: a GPU waits for the first images of each, and cores wait for the last task of all to end."""
_SECONDS = 10
"""In which a cluster has to take a connection, and to answer."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a client of HTTP/2 begins with (RFC 9113, 3.4), which gRPC speaks, and Ray by it: here without settings."""
_FRAME, _SETTINGS = 9, 4
"""Bytes of the head of its frames, and the type of the first that a server sends, in the fourth byte."""
_ATTEMPTS = "RAY_gcs_server_port_wait_time_s"
"""Ray's setting of how often it tries to reach a cluster, 20 times unless set."""
_RETRIES = 3
"""How often a task is given to an actor again that died in it: some images kill every actor."""


class _Actor:
    """One copy of the model, which embeds; Ray starts it anew where it dies, and gives it its tasks again."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.embedder: Any = None

    def rows(self, shared: list[Any], sources: list[Any]) -> list[Any]:
        """Rows of some images; the first ones of a new actor come with the model, which no constructor may depend on.

        See https://github.com/ray-project/ray/issues/53727. It is in a list so that Ray does not read it every time.
        """
        if self.embedder is None:
            self.embedder = import_module("ray").get(shared[0])
            self.embedder.model.to(self.device)
        return list(self.embedder.run(sources))


def rows(embedder: Any, sources: Iterable[Any]) -> Iterator[Any]:
    """Embed images by Ray's actors: a row for each, in order.

    Args:
        embedder: A model that is ready to embed, on the CPU or on a device of this machine.
        sources: Images with their labels; taken as they are needed.

    Raises:
        UsageError: There is no cluster at the address that ``RAY_ADDRESS`` has, or Ray does not start here.
        ZooError: An actor died again and again, or raised an error that is not about one image.
    """
    ray = _started()
    resources = ray.cluster_resources()
    kind, device = ("GPU", "cuda") if resources.get("GPU") else ("CPU", "cpu")
    if kind == "CPU" and embedder.num_workers is None:
        embedder = replace(embedder, num_workers=1)  # each core has an actor already
    before = next((each.device for each in embedder.model.parameters()), "cpu")
    embedder.model.to("cpu")  # a machine of the cluster may have no such device
    shared = ray.put(embedder)
    embedder.model.to(before)
    needs = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
    start = ray.remote(max_restarts=-1, max_task_retries=_RETRIES, **needs)(_Actor)
    actors = [start.remote(device) for _ in range(max(1, int(resources.get(kind, 1))))]
    try:
        for found in _in_order(ray, actors, shared, _in_chunks(sources, embedder.batch_size * _BATCHES[kind])):
            yield from found
    except ray.exceptions.RayError as error:
        raised = getattr(error, "cause", None)  # of an actor; otherwise it died
        raise errors.ZooError(
            "the images could not be embedded on Ray",
            cause=f"{type(raised).__name__}: {raised}" if raised else str(error).partition("\n")[0],
            hint='engine="local" (no --engine) shows which image it is; what was written to out stays',
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)


def _started() -> Any:
    """Ray, connected to the cluster of the user, or to one that it starts on this machine."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # or it sends the current folder to every worker
    ray: Any = import_module("ray")  # a heavy library, without which this module can be read
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            is_host = _require_cluster(address)
            with _few_attempts() if is_host else nullcontext():
                ray.init(log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise errors.UsageError(
                f"there is no Ray cluster at {address}" if address else "Ray does not start on this machine",
                cause=str(error).partition("\n")[0],
                hint="RAY_ADDRESS is the address that ray start prints; unset, Ray starts on this machine",
            ) from error
    return ray


@contextmanager
def _few_attempts() -> Iterator[None]:
    """Have Ray give up after one attempt, of a minute, to connect to a cluster: what is there may be no Ray."""
    if _ATTEMPTS in os.environ:
        yield
        return
    os.environ[_ATTEMPTS] = "1"
    try:
        yield
    finally:
        del os.environ[_ATTEMPTS]  # a Ray that is started here would wait a second for its own port


def _require_cluster(address: str) -> bool:
    """Refuse the host and port of a cluster where nothing listens, or no server of gRPC: Ray itself waits for minutes.

    Returns:
        Whether the address has a host and a port.

    Raises:
        OSError: There is none.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return False
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):  # as Ray reads it
            return True
        answer = b""
        try:
            connection.sendall(_PREFACE)
            while len(answer) < _FRAME and (more := connection.recv(_FRAME - len(answer))):
                answer += more
        except TimeoutError as error:
            raise TimeoutError(f"what listens there is no Ray: it did not answer in {_SECONDS} seconds") from error
    if len(answer) < _FRAME or answer[3] != _SETTINGS:
        raise OSError(f"what listens there is no Ray: it answered {answer!r}")
    return True


def _in_chunks(sources: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Images of one task each, which mean the same on another machine of the cluster."""
    several = iter(sources)
    while chunk := [(_portable(source), label) for source, label in islice(several, size)]:
        yield chunk


def _portable(source: Any) -> Any:
    """An image to send to an actor: a path does not depend on the folder, and one of a batch brings no others along."""
    item = source.item
    if isinstance(item, str | os.PathLike):
        return source._replace(item=Path(item).absolute())
    return source._replace(item=item.clone()) if hasattr(item, "untyped_storage") else source


def _in_order(ray: Any, actors: list[Any], shared: Any, chunks: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """What the actors give for the chunks, in their order; each actor has the next one when it is done with others."""
    waiting: deque[Any] = deque()
    running: dict[Any, int] = {}
    tasks = [0] * len(actors)
    while True:
        while len(waiting) < _AHEAD * len(actors) and min(tasks) < _IN_FLIGHT and (chunk := next(chunks, None)):
            place = tasks.index(min(tasks))
            waiting.append(actors[place].rows.remote([shared], chunk))
            running[waiting[-1]] = place
            tasks[place] += 1
        if not waiting:
            return
        if waiting[0] in running:
            for task in ray.wait([*running])[0]:
                tasks[running.pop(task)] -= 1
        else:
            yield ray.get(waiting.popleft())
