"""What a plugin's code does to the whole process: what it changes, prints, writes and runs; and no network."""

from __future__ import annotations

import atexit
import builtins
import gc
import io
import locale
import logging
import os
import pickle
import random
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from PIL import Image, ImageFile
from torch import nn
from torch.nn.modules import module as module_hooks

_OF_TOOLS = ("__pycache__", ".pytest_cache", ".coverage")
"""What other programs than the one that is looked at may write meanwhile."""
_OF_SYSTEM = ("/dev/", "/proc/", "/sys/")
_WRITTEN = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}
"""Events of Python that make a file besides "open", and which of their arguments is its path."""
_PROGRAMS = {"subprocess.Popen": 0, "os.system": 0, "os.posix_spawn": 0}
_IMPORT = "<frozen importlib._bootstrap>"
_noted: ContextVar[tuple[set[str], list[str]] | None] = ContextVar("noted", default=None)

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


def _numpy(name: str, **values: Any) -> Any:
    """Call numpy's function of this name, if installed: to compare or put back what it keeps for the process."""
    numpy = sys.modules.get("numpy")
    return getattr(numpy, name)(**values) if numpy else None


def _umask() -> int:
    """The umask of the whole process, to compare it around a plugin's code; the system gives it only for another."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _keeps_small_numbers() -> bool:
    """Whether numbers too small for the usual form of float32 are computed with, and are no zeros."""
    return bool(torch.tensor([2e-39]).mul(0.5).item())


def _set_trusted(kinds: list[Any]) -> None:
    """Put back what torch.load may build in the whole process, after a plugin's code."""
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(kinds)


def _attribute(owner: object, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """How to compare what a Python module or its like keeps for the process in an attribute, and how to put it back."""
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether gradients are recorded": (torch.is_grad_enabled, torch.set_grad_enabled),
    "whether autocast is on": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "the precision of float32 products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "whether the smallest numbers are zeros": (
        _keeps_small_numbers,
        lambda value: torch.set_flush_denormal(not value),
    ),
    "torch.backends.cudnn.benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "torch.backends.cudnn.enabled": _attribute(torch.backends.cudnn, "enabled"),
    "whether algorithms are deterministic": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "whether autograd looks for anomalies": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the classes that torch.load trusts": (lambda: [*torch.serialization.get_safe_globals()], _set_trusted),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "how often threads take turns": (sys.getswitchinterval, sys.setswitchinterval),
    "whether Python collects garbage": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "when Python collects garbage": (gc.get_threshold, lambda value: gc.set_threshold(*value)),
    "the timeout of sockets": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "the locale": (lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    "sys.stdout": _attribute(sys, "stdout"),
    "sys.stderr": _attribute(sys, "stderr"),
    "sys.excepthook": _attribute(sys, "excepthook"),
    "sys.displayhook": _attribute(sys, "displayhook"),
    "threading.excepthook": _attribute(threading, "excepthook"),
    "warnings.showwarning": _attribute(warnings, "showwarning"),
    "what SIGINT does": (lambda: signal.getsignal(signal.SIGINT), lambda value: signal.signal(signal.SIGINT, value)),
    "what SIGTERM does": (lambda: signal.getsignal(signal.SIGTERM), lambda value: signal.signal(signal.SIGTERM, value)),
    "how numpy handles errors": (lambda: _numpy("geterr"), lambda value: _numpy("seterr", **value)),
    "how numpy prints": (lambda: _numpy("get_printoptions"), lambda value: _numpy("set_printoptions", **value)),
    "how torch prints": (
        lambda: dict(vars(torch._tensor_str.PRINT_OPTS)),  # noqa: SLF001 - torch has no way to ask
        lambda value: torch.set_printoptions(**value),  # type: ignore[no-untyped-call] # torch's
    ),
    "the most pixels that Pillow reads": _attribute(Image, "MAX_IMAGE_PIXELS"),
    "whether Pillow reads images that are cut off": _attribute(ImageFile, "LOAD_TRUNCATED_IMAGES"),
    "the permissions of new files, os.umask": (_umask, os.umask),
    "the current folder": (Path.cwd, os.chdir),
    "the warning filters": (lambda: [*warnings.filters], _set_filters),
    "the environment variables": (lambda: dict(os.environ), _set_environment),
    "sys.path": (lambda: [*sys.path], lambda value: sys.path.__setitem__(slice(None), value)),
    "sys.meta_path": (lambda: [*sys.meta_path], lambda value: sys.meta_path.__setitem__(slice(None), value)),
    "the logging of all libraries": (
        lambda: ([*logging.root.handlers], logging.root.level, logging.root.manager.disable),
        _set_logging,
    ),
    "what runs at the end of the process, atexit": (
        atexit._ncallbacks,  # noqa: SLF001 - Python has no other way to ask
        lambda _: None,  # which stays: atexit does not tell what was registered
    ),
}
"""What it is called, how to look at it and how to put it back."""

WHILE_IMPORTED = {
    "the warning filters",
    "the environment variables",
    "sys.path",
    "sys.meta_path",
    "the logging of all libraries",
    "the classes that torch.load trusts",
    "what runs at the end of the process, atexit",
}
"""What a library may well change while it is imported."""


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
    """Whether a function that a plugin's code put on a class, for the whole process, hides one that it inherits."""
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
    """The hooks of torch for all modules in the whole process, to compare around a plugin's code, by table."""
    return {
        name: value
        for name, value in vars(module_hooks).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }


@contextmanager
def printed() -> Iterator[list[str]]:
    """Inside the block, note what a plugin's code prints; that is printed at the end of the block.

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
    """The random states in the process to compare around a plugin's code: Python's own and numpy's, not torch's."""
    states: dict[str, object] = {"Python's random": random.getstate()}
    if numpy := sys.modules.get("numpy"):
        states["numpy"] = repr(numpy.random.get_state(legacy=False))
    return states


@contextmanager
def started_from(seed: int) -> Iterator[dict[str, object]]:
    """Seed the process's generators other than torch's around a plugin's code, and put them back; gives states."""
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


@contextmanager
def files_left() -> Iterator[list[str]]:
    """Inside the block, note the files that a plugin's code leaves, and the programs that it runs.

    What code in C++ or Rust writes is seen in the current folder, and in a :func:`temporary_folder`.

    Yields:
        Them in words, at the end of the block.

    Example:
        >>> with files_left() as traces:
        ...     path = Path(tempfile.mkdtemp())
        >>> traces == [f"leaves {path}"]
        True
        >>> path.rmdir()
    """
    traces: list[str] = []
    here = Path.cwd()
    before = {*here.iterdir()}
    with _written() as (paths, programs):
        yield traces
    paths |= {str(path) for path in here.iterdir() if path not in before}
    left = [path for path in map(Path, sorted(paths)) if path.exists() and not _is_of_tools(path)]
    traces += [f"leaves {f'{path.name} in the current folder' if path.parent == here else path}" for path in left]
    traces.extend(f"runs {program}" for program in dict.fromkeys(programs))


@contextmanager
def temporary_folder() -> Iterator[list[str]]:
    """Inside the block, temporary files of a plugin's code go to an empty folder, where no other program writes.

    Yields:
        What was left in it, in words, at the end of the block.
    """
    traces: list[str] = []
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield traces
        finally:
            tempfile.tempdir = before[0]
            del os.environ["TMPDIR"]
            os.environ.update({"TMPDIR": before[1]} if before[1] is not None else {})
        traces += [f"leaves {path.name} in the folder for temporary files" for path in sorted(Path(folder).iterdir())]


def _is_of_tools(path: Path) -> bool:
    """Whether a file that this process leaves is one that Python or a tool beside it keeps, or a device."""
    return str(path).startswith(_OF_SYSTEM) or any(part.startswith(_OF_TOOLS) for part in path.parts)


@contextmanager
def _written() -> Iterator[tuple[set[str], list[str]]]:
    """Inside the block, gather the files that a plugin's code in this thread writes, and the programs that it runs."""
    _listen()
    noted: tuple[set[str], list[str]] = (set(), [])
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


@cache
def _listen() -> None:
    """Have Python tell of each file that this process opens, and each program; it cannot be stopped: begun once."""
    sys.addaudithook(_note)


def _note(event: str, args: tuple[Any, ...]) -> None:
    """Note a file that a plugin's code writes to, or a program that it runs, unless an import of a module does so."""
    noted = _noted.get()
    if noted is None or (event != "open" and event not in _WRITTEN and event not in _PROGRAMS):
        return
    path = args[{**_WRITTEN, **_PROGRAMS}.get(event, 0)]
    if not isinstance(path, str | bytes | os.PathLike) or (event == "open" and not _is_to_write(*args[1:3])):
        return
    frame = sys._getframe(1)  # noqa: SLF001 - the way to a caller
    while frame.f_back is not None and frame.f_code.co_filename != _IMPORT:
        frame = frame.f_back
    if frame.f_code.co_filename == _IMPORT:
        return
    if event in _PROGRAMS:
        noted[1].append(Path(os.fsdecode(path)).name)
    else:
        noted[0].add(str(Path(os.fsdecode(path)).absolute()))


def _is_to_write(mode: str | None, flags: int | None) -> bool:
    """Whether this process opens a file to write to it."""
    return bool({*(mode or "")} & {*"wax+"}) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
