"""What belongs to the whole process: compared around a plugin's code, put back after it; and no network."""

from __future__ import annotations

import gc
import io
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from PIL import Image
from torch import nn
from torch.nn.modules import module as module_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _set_filters(filters: list[Any]) -> None:
    """Put the warning filters of the process back."""
    cast("list[Any]", warnings.filters)[:] = filters


def _set_environment(value: dict[str, str]) -> None:
    """Put the environment variables of the process back."""
    for name in {*os.environ} - {*value}:
        del os.environ[name]
    os.environ.update(value)


def _set_logging(value: tuple[list[logging.Handler], int, int]) -> None:
    """Put the logging of the process back."""
    logging.root.handlers[:], logging.root.level, logging.root.manager.disable = value


def _numpy(name: str, **values: Any) -> Any:  # noqa: ANN401 - what numpy gives
    """What a function of numpy gives, where numpy is installed."""
    numpy = sys.modules.get("numpy")
    return getattr(numpy, name)(**values) if numpy else None


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether gradients are recorded": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the precision of float32 products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.backends.cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "whether algorithms are deterministic": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "whether autograd looks for anomalies": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "whether Python collects garbage": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "the timeout of sockets": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "sys.excepthook": (lambda: sys.excepthook, lambda value: setattr(sys, "excepthook", value)),
    "what SIGINT does": (lambda: signal.getsignal(signal.SIGINT), lambda value: signal.signal(signal.SIGINT, value)),
    "what SIGTERM does": (lambda: signal.getsignal(signal.SIGTERM), lambda value: signal.signal(signal.SIGTERM, value)),
    "how numpy handles errors": (lambda: _numpy("geterr"), lambda value: _numpy("seterr", **value)),
    "the most pixels that Pillow reads": (
        lambda: Image.MAX_IMAGE_PIXELS,
        lambda value: setattr(Image, "MAX_IMAGE_PIXELS", value),
    ),
    "the current folder": (Path.cwd, os.chdir),
    "the warning filters": (lambda: [*warnings.filters], _set_filters),
    "the environment variables": (lambda: dict(os.environ), _set_environment),
    "sys.path": (lambda: [*sys.path], lambda value: sys.path.__setitem__(slice(None), value)),
    "the logging of all libraries": (
        lambda: ([*logging.root.handlers], logging.root.level, logging.root.manager.disable),
        _set_logging,
    ),
}
"""What it is called, how to look at it and how to put it back."""
_WHILE_IMPORTED = {"the warning filters", "the environment variables", "sys.path", "the logging of all libraries"}
"""What a library may well change while it is imported."""

_TORCH = Path(torch.__file__).parent
_NAMESPACES: dict[str, object] = {
    "torch": torch,
    "torch.nn": nn,
    "torch.nn.functional": nn.functional,
    "torch.nn.init": nn.init,
    "torch.Tensor": torch.Tensor,
    **{
        f"torch.nn.{kind.__name__}": kind
        for kind in (nn.Module, nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.Sequential, nn.Dropout)
    },
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
    settings, modules = dict(_SETTINGS), len(sys.modules)
    before = {name: look() for name, (look, _) in settings.items()}
    names = {space: dict(vars(owner)) for space, owner in _NAMESPACES.items()}
    hooks = {name: dict(value) for name, value in _global_hooks().items()}
    threads = {*threading.enumerate()}
    try:
        yield changes
    finally:
        if imports and len(sys.modules) > modules:
            settings = {name: pair for name, pair in settings.items() if name not in _WHILE_IMPORTED}
        changes += _restored_settings(settings, before)
        changes += _restored_names(names)
        for name, value in _global_hooks().items():
            if value != hooks[name]:
                changes.append(f"the hooks of all modules, torch.nn.modules.module.{name}")
                value.clear()
                value.update(hooks[name])
        started = [thread for thread in threading.enumerate() if thread not in threads]
        changes += [f"the threads that run: it leaves {thread.name}" for thread in started]


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
    finally:
        stdout.write(text.getvalue())
    if text.getvalue().strip():
        traces.append(f"prints {text.getvalue().strip()[:60]!r}")


@contextmanager
def files_left() -> Iterator[list[str]]:
    """Inside the block, note the files that it leaves in the current folder.

    Yields:
        Them in words, at the end of the block.
    """
    traces: list[str] = []
    before = _files_here()
    with _opened_here() as opened:
        yield traces
    left = _files_here() - before | {name for name in opened if Path(name).exists()}
    traces += [f"leaves {name} in the current folder" for name in sorted(left) if not name.startswith(_OF_TOOLS)]


def _files_here() -> set[str]:
    """The names in the current folder."""
    return {path.name for path in Path.cwd().iterdir()}


_OF_TOOLS = ("__pycache__", ".pytest_cache", ".coverage")
"""What other programs than the one that is looked at may write meanwhile."""
_opened: ContextVar[set[str] | None] = ContextVar("opened", default=None)


@contextmanager
def _opened_here() -> Iterator[set[str]]:
    """Inside the block, gather the files of the current folder that this thread opens to write to them."""
    _listen()
    opened: set[str] = set()
    token = _opened.set(opened)
    try:
        yield opened
    finally:
        _opened.reset(token)


@cache
def _listen() -> None:
    """Have Python tell of each file that is opened; it cannot be stopped, and so is begun once."""
    sys.addaudithook(_note_opened)


def _note_opened(event: str, args: tuple[Any, ...]) -> None:
    """Note a file of the current folder that is opened to write to it."""
    opened = _opened.get() if event == "open" else None
    if opened is None or not isinstance(args[0], str | Path):
        return
    _, mode, flags = args
    writes = bool({*(mode or "")} & {*"wax+"}) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
    path = Path(args[0]).absolute()
    if writes and path.parent == Path.cwd():
        opened.add(path.name)


def random_states() -> dict[str, object]:
    """The states of the generators of the process that are not torch's: Python's own, and numpy's."""
    states: dict[str, object] = {"Python's random": random.getstate()}
    if numpy := sys.modules.get("numpy"):
        states["numpy"] = repr(numpy.random.get_state(legacy=False))
    return states


@contextmanager
def started_from(seed: int) -> Iterator[dict[str, object]]:
    """Let the process's other generators start from a seed inside the block, and put them back; gives their states."""
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

    def refuse(host: object, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401 - the signatures of the socket module
        name = host.decode() if isinstance(host, bytes) else str(host)
        attempts.append(name)
        msg = f"no network while a model is built: {name}"
        raise OSError(msg)

    def refuse_address(_: socket.socket, address: Any) -> NoReturn:  # noqa: ANN401 - as above
        refuse(address[0] if isinstance(address, tuple) else address)

    resolve = socket.getaddrinfo
    socket.getaddrinfo = refuse
    socket.socket.connect = refuse_address  # type: ignore[method-assign, assignment]  # its own is that of the class below it
    try:
        yield attempts
    finally:
        socket.getaddrinfo = resolve
        del socket.socket.connect
