"""Time for the benchmarks on a GPU: how much is left of it, how long the device took, and how far figures spread."""

from __future__ import annotations

import contextlib
import statistics
import time
import traceback
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Clock:
    """A number of seconds from now on.

    Args:
        seconds: How many.
    """

    def __init__(self, seconds: float) -> None:
        self._started = time.monotonic()
        self._seconds = seconds

    def spent(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Seconds until time is up, or fewer than none."""
        return self._seconds - self.spent()

    def share(self, part: float) -> Clock:
        """A clock for a part of what is left."""
        return Clock(self.left() * part)


@contextlib.contextmanager
def attempt(what: str) -> Iterator[None]:
    """Have a failure cost its own row: say what it was, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a peer, a compiler or a driver raises
        text = str(error).strip().splitlines() or [""]
        print(f"{what}: FAILED with {type(error).__name__}: {text[-1][:300]}", flush=True)
        print("".join(traceback.format_tb(error.__traceback__)[-1:]).rstrip(), flush=True)


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_seconds(step: Callable[[], None], device: torch.device) -> float:
    """Time of one call: by events on the device itself where there are any."""
    if device.type != "cuda":
        started = time.perf_counter()
        step()
        return time.perf_counter() - started
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    step()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000


def busy_share(step: Callable[[], None], device: torch.device) -> float:
    """The part of a call's time in which the device had something to do; NaN where there is no telling.

    torch's profiler says how long each kernel ran; it slows the host down, so that the time they are held against is
    that of a call without it.
    """
    if device.type != "cuda":
        return float("nan")
    from torch.profiler import ProfilerActivity, profile

    elapsed = statistics.median(device_seconds(step, device) for _ in range(5))
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize(device)
    kernels = sum(event.self_device_time_total for event in profiler.key_averages())
    return kernels / 1e6 / elapsed


def quartiles(ratios: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return low, middle, high


def spread(ratios: list[float]) -> str:
    """The median, and the quartiles."""
    low, middle, high = quartiles(ratios)
    return f"{middle:.3f}  ({low:.3f} to {high:.3f})"
