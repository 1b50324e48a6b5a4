"""What belongs to the whole process: compared around a plugin's code, put back after it; and no network."""

from __future__ import annotations

import builtins
import gc
import io
import os
import pickle
import random
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from zoo_core.testing.settings import SETTINGS, WHILE_IMPORTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_TORCH = Path(torch.__file__).parent
_GRACE = 2.0
"""Seconds that a thread of a pool may take to end, on a machine that is busy."""
_NAMESPACES: dict[str, object] = {
    **{each.__name__: each for each in (builtins, os, pickle, socket, ssl)},
    "torch": torch,
    "torch.nn": nn,
    "torch.nn.functional": nn.functional,
    "torch.nn.init": nn.init,
    "torch.Tensor": torch.Tensor,
    **{f"torch.nn.{name}": kind for name, kind in vars(nn).items() if isinstance(kind, type)},
}
"""Whose names a library may put something else under."""


@contextmanager
def watched(*, imports: bool = False) -> Iterator[list[str]]:
    """Inside the block, note what it changes for the whole process; threads that it starts and leaves are noted too.

    Args:
        imports: Whether a library may be imported inside, which may well set filters of warnings or log.

    Yields:
        What was changed, in words; filled at the end of the block, and put back by then.

    Example:
        >>> with watched() as changes:
        ...     torch.set_default_dtype(torch.float64)
        >>> changes, torch.get_default_dtype()
        (['the default dtype'], torch.float32)
    """
    changes: list[str] = []
    settings, modules = dict(SETTINGS), len(sys.modules)
    before = {name: look() for name, (look, _) in settings.items()}
    names = {space: dict(vars(owner)) for space, owner in _NAMESPACES.items()}
    hooks = {name: dict(value) for name, value in _global_hooks().items()}
    threads = {*threading.enumerate()}
    try:
        yield changes
    finally:
        if imports and len(sys.modules) > modules:
            settings = {name: pair for name, pair in settings.items() if name not in WHILE_IMPORTED}
        changes += _restored_settings(settings, before)
        changes += _restored_names(names)
        for name, value in _global_hooks().items():
            if value != hooks[name]:
                changes.append(f"the hooks of all modules, torch.nn.modules.module.{name}")
                value.clear()
                value.update(hooks[name])
        changes += [f"the threads that run: it leaves {thread.name}" for thread in _left(threads)]


def _left(before: set[threading.Thread]) -> list[threading.Thread]:
    """The threads of the process that were started meanwhile and go on; those of a pool that was shut down may end."""
    started = [thread for thread in threading.enumerate() if thread not in before]
    if started:
        gc.collect()  # which ends the threads of a pool without a reference
    until = time.monotonic() + _GRACE
    for thread in started:
        thread.join(max(until - time.monotonic(), 0))
    return [thread for thread in started if thread.is_alive()]


def _restored_settings(
    settings: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]], before: dict[str, Any]
) -> Iterator[str]:
    """Put the settings of the process back that were changed, and name them."""
    for name, (look, put) in settings.items():
        if look() != before[name]:
            put(before[name])
            yield name


def _restored_names(names: dict[str, dict[str, object]]) -> Iterator[str]:
    """Put what was replaced in torch's modules and classes back, for the whole process, and name it."""
    for space, known in names.items():
        now = vars(_NAMESPACES[space])
        for name, value in known.items():
            changed = name in now and now[name] is not value and (callable(value) or isinstance(value, property))
            if changed and not _is_of_torch(now[name]):
                setattr(_NAMESPACES[space], name, value)
                yield f"{space}.{name}"
        for name in [name for name in now if name not in known and _hides_inherited(_NAMESPACES[space], name)]:
            delattr(_NAMESPACES[space], name)
            yield f"{space}.{name}"


def _hides_inherited(owner: object, name: str) -> bool:
    """Whether a new function of a class takes the place of one that it inherits."""
    value = vars(owner)[name]
    bases = owner.__mro__[1:] if isinstance(owner, type) else ()
    return callable(value) and any(name in vars(base) for base in bases) and not _is_of_torch(value)


def _is_of_torch(value: object) -> bool:
    """Whether torch itself changed it for the process, as its compiler does with some functions when it is imported."""
    code = getattr(value, "__code__", None)
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = code.co_filename if code else getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(_TORCH)


def _global_hooks() -> dict[str, dict[Any, Any]]:
    """The hooks of torch for all modules in the process, by the name of their table."""
    return {
        name: value
        for name, value in vars(module_hooks).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }


@contextmanager
def printed() -> Iterator[list[str]]:
    """Inside the block, note what it prints; that is printed at the end of the block.

    Yields:
        That in words, at the end of the block.

    Example:
        >>> with printed() as traces:
        ...     print("Loading ...")
        Loading ...
        >>> traces
        ["prints 'Loading ...'"]
    """
    traces: list[str] = []
    stdout, text = sys.stdout, io.StringIO()
    try:
        with redirect_stdout(text):
            yield traces
            if sys.stdout is not text:
                traces.append("puts something else in the place of sys.stdout")
    finally:
        stdout.write(text.getvalue())
    if text.getvalue().strip():
        traces.append(f"prints {text.getvalue().strip()[:60]!r}")


def random_states() -> dict[str, object]:
    """What the process holds of random generators that are not torch's: the states of Python's own, and numpy's."""
    states: dict[str, object] = {"Python's random": random.getstate()}
    if numpy := sys.modules.get("numpy"):
        states["numpy"] = repr(numpy.random.get_state(legacy=False))
    return states


@contextmanager
def started_from(seed: int) -> Iterator[dict[str, object]]:
    """Seed the process's generators other than torch's inside the block, and put them back; gives their states."""
    numpy = sys.modules.get("numpy")
    before = random.getstate(), numpy.random.get_state() if numpy else None
    random.seed(seed)
    if numpy:
        numpy.random.seed(seed)
    try:
        yield random_states()
    finally:
        random.setstate(before[0])
        if numpy:
            numpy.random.set_state(before[1])


@contextmanager
def without_network() -> Iterator[list[str]]:
    """Refuse every connection and every look-up of a name inside the block.

    Yields:
        What was requested, filled as it happens; a library may well catch the error and go on.

    Example:
        >>> with without_network() as attempts:
        ...     socket.create_connection(("example.org", 443))
        Traceback (most recent call last):
        ...
        OSError: no network while a model is built: example.org
        >>> attempts
        ['example.org']
    """
    attempts: list[str] = []

    def refuse(host: object, *_: Any, **__: Any) -> NoReturn:
        name = host.decode() if isinstance(host, bytes) else str(host)
        attempts.append(name)
        msg = f"no network while a model is built: {name}"
        raise OSError(msg)

    def refuse_address(_: socket.socket, address: Any) -> NoReturn:
        refuse(address[0] if isinstance(address, tuple) else address)

    resolve = socket.getaddrinfo
    socket.getaddrinfo = refuse
    socket.socket.connect = refuse_address  # type: ignore[method-assign, assignment]  # its own is that of the class below it
    try:
        yield attempts
    finally:
        socket.getaddrinfo = resolve
        del socket.socket.connect
