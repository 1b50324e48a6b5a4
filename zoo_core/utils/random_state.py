"""Drawing at random reproducibly, with every generator afterwards as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, local

import torch
from torch import nn

from zoo_core.utils.arguments import check_seed

_drawing = RLock()
"""Held while zoo draws: torch has one generator for all threads, and two that seed it would mix their numbers."""


_forking = local()
_WAIT = 10.0
"""Seconds that a fork waits for a thread that draws: the child would keep its seed and its lock on the generator."""


def _before_fork() -> None:
    """Wait until no other thread draws at random, but not without end: that thread may wait for the one that forks."""
    _forking.waited = _drawing.acquire(timeout=_WAIT)


def _after_fork() -> None:
    """Let other threads of the parent draw at random again."""
    if _forking.waited:
        _drawing.release()


def _in_child() -> None:
    """Let go of the lock on the random state; where a thread that is not in this process holds it, make a new one."""
    global _drawing  # noqa: PLW0603 - what held it is not in this process
    if _forking.waited:
        _drawing.release()
    else:
        _drawing = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


@contextmanager
def seeded(seed: int | None, model: nn.Module | None = None) -> Iterator[None]:
    """Draw from ``seed`` inside the block and leave the global random state as it was; None changes nothing.

    ``torch.manual_seed`` is not for this: it seeds the generator of every GPU as well, and those are not put back. One
    thread at a time is in such a block, with a seed or without.

    Args:
        seed: Any integer that ``torch.manual_seed`` takes, or None.
        model: The model whose devices' generators are covered too; those of other devices are not touched.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(5):
        ...     first = torch.rand(3)
        >>> with seeded(5):
        ...     second = torch.rand(3)
        >>> torch.equal(first, second), torch.equal(torch.get_rng_state(), before)
        (True, True)
    """
    if seed is None:
        with _drawing:
            yield
        return
    with unmoved(model) as generators:
        for generator in generators:
            generator.manual_seed(check_seed(seed))
        yield


@contextmanager
def unmoved(model: nn.Module | None = None) -> Iterator[list[torch.Generator]]:
    """Put the random generators of the CPU and of a model's devices back as they were; gives these generators."""
    with _drawing:
        generators = [torch.default_generator, *_generators(model)]
        states = [generator.get_state() for generator in generators]
        try:
            yield generators
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _generators(model: nn.Module | None) -> Iterator[torch.Generator]:
    """The random generator of each device, other than the CPU, that a parameter of the model is on."""
    for device in {parameter.device for parameter in model.parameters()} if model is not None else ():
        if device.type == "mps":  # has one, and no table of them
            yield torch.mps._get_default_mps_generator()  # noqa: SLF001 - there is no public name for it
        elif device.type not in {"cpu", "meta"}:
            yield torch.get_device_module(device).default_generators[device.index]
