"""The settings of the process that a plugin's code must leave alone: how to look at each, and how to put it back."""

from __future__ import annotations

import atexit
import gc
import locale
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image, ImageFile

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """What a function of numpy gives, where numpy is installed."""
    numpy = sys.modules.get("numpy")
    return getattr(numpy, name)(**values) if numpy else None


def _umask() -> int:
    """The permissions that new files of the process lack; the system says them only while it sets others."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _keeps_small_numbers() -> bool:
    """Whether numbers too small for the usual form of float32 are computed with, and are no zeros."""
    return bool(torch.tensor([2e-39]).mul(0.5).item())


def _set_trusted(kinds: list[Any]) -> None:
    """Put back what torch.load may build."""
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(kinds)


def _attribute(owner: object, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """How to look at an attribute of a module, and how to put it back."""
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
