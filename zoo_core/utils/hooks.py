"""The hooks that a user has registered on modules, apart from those with which torch itself works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle

FORWARD = ("_forward_hooks", "_forward_pre_hooks")
"""Where torch keeps what runs with a forward pass, and may change what it gives."""
ALL = (*FORWARD, "_backward_hooks", "_backward_pre_hooks")


def hooks_of(module: nn.Module, tables: tuple[str, ...] = ALL) -> list[Callable[..., object]]:
    """The hooks of the user's on a module; of a method its function, which a copy of the module has too.

    What computes a weight, shards a module or calls it again in the backward pass is torch's own.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> hooks_of(layer), hooks_of(torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2)))
        ([], [])
        >>> _ = layer.register_forward_hook(lambda *_: None)
        >>> len(hooks_of(layer))
        1
    """
    hooks = (hook for name in tables for hook in vars(module)[name].values())
    return [getattr(hook, "__func__", hook) for hook in hooks if _is_of_user(hook)]


@contextmanager
def removing(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Take hooks off their modules after the block, by the handles that registering them gave.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> with removing([layer.register_forward_hook(lambda *_: None)]):
        ...     len(hooks_of(layer))
        1
        >>> hooks_of(layer)
        []
    """
    handles = [*handles]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_of_user(hook: Callable[..., object]) -> bool:
    """Whether a hook is not one of torch."""
    inner = hook.func if isinstance(hook, partial) else hook
    home = getattr(inner, "__module__", None) or type(inner).__module__
    return not home.startswith("torch.")
