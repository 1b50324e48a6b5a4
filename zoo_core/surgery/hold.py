"""Holding a module of a frozen part: it stays in eval mode and keeps its statistics in training and resets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook

_RESETS = ("reset_running_stats", "reset_parameters")


class Held:
    """Stands in for ``train`` on one module of a frozen part: the module stays in eval mode, whatever calls it.

    An instance attribute, so that the module keeps its class and its state-dict keys; a class and not a closure, so
    that deepcopy and pickle follow the module. Once parameters of the module that were frozen require gradients again,
    another library has unfrozen it, and it follows ``train`` as before: from the next call of that on, or from the next
    step of any optimizer, since trainers such as Lightning's call ``train`` once and for all.
    """

    def __init__(self, module: nn.Module, root: nn.Module | None) -> None:
        self.module = module
        self.root = None if root is None else ref(root)
        self.frozen = not any(each.requires_grad for each in module.parameters(recurse=False))
        self.counts = {name: tensor.clone() for name, tensor in _buffers(module) if not tensor.dim()}
        self.loading = False
        _watch(self)

    def __getstate__(self) -> dict[str, Any]:
        """All but the model around the module, which may not be saved with it."""
        return {**self.__dict__, "root": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Watch a copy too."""
        self.__dict__.update(state)
        _watch(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        """The copy is in the copy of the model, where that is copied."""
        twin: Held = object.__new__(Held)
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        root = memo.get(id(self.root())) if self.root is not None else None
        twin.root = None if root is None else ref(root)
        return twin

    def follow(self) -> None:
        """Let the module train again, unless the model around it is known to be in eval mode."""
        root = self.root() if self.root is not None else None
        release(self.module)
        self.module.training = root is None or root.training

    def is_unfrozen(self) -> bool:
        """Whether another library has unfrozen the module."""
        return self.frozen and any(each.requires_grad for each in self.module.parameters(recurse=False))

    def __call__(self, mode: bool = True) -> nn.Module:  # noqa: FBT001, FBT002 - the signature of nn.Module.train
        """Put what is inside into that mode, and leave the module itself in eval mode."""
        module = self.module
        if self.is_unfrozen():
            release(module)
            return module.train(mode)
        for child in module.children():
            child.train(mode)
        module.training = False
        return module

    def keep(self, *_: object, **__: object) -> None:
        """Stands in for what resets statistics."""

    def begin_load(self, *_: object) -> None:
        """Let a state dict put other tensors in."""
        self.loading = True

    def end_load(self, *_: object) -> None:
        """Keep what a state dict put in."""
        self.loading = False
        self.counts = {name: tensor.clone() for name, tensor in _buffers(self.module) if not tensor.dim()}


_WATCHED: WeakValueDictionary[int, Held] = WeakValueDictionary()
"""All that hold something in this process, by id; a ``WeakSet`` cannot be gone through while a thread adds to it."""


def _watch(held: Held) -> None:
    """Add a held module to those that are looked at before each step of an optimizer."""
    _follow_at_steps()
    _WATCHED[id(held)] = held


@cache
def _follow_at_steps() -> None:
    """Have the held modules looked at before each step of any optimizer, once in a process."""
    register_optimizer_step_pre_hook(_follow)


@torch._disable_dynamo  # type: ignore[attr-defined]  # noqa: SLF001 - torch.compiler.disable imports all of dynamo
def _follow(*_: object) -> None:
    """Let held modules that another library has unfrozen train again."""
    for held in [each() for each in _WATCHED.valuerefs()]:
        if held is not None and held.is_unfrozen():
            held.follow()


def hold(module: nn.Module, root: nn.Module | None = None) -> None:
    """Keep ``module`` in eval mode and its buffers as they are, until :func:`release`.

    Args:
        module: A module.
        root: The model that it is in, whose mode it follows once another library has unfrozen it.
    """
    release(module)
    held = Held(module, root)
    module.__dict__["train"] = held
    for name in _RESETS:
        if hasattr(type(module), name):
            module.__dict__[name] = held.keep
    module.register_load_state_dict_pre_hook(held.begin_load)  # type: ignore[no-untyped-call]  # torch has not typed them
    module.register_load_state_dict_post_hook(held.end_load)  # type: ignore[no-untyped-call]
    module.training = False


def release(module: nn.Module) -> None:
    """Let a held module follow ``train`` again; its mode stays as it is."""
    if not is_held(module):
        return
    held = module.__dict__.pop("train")
    for name in _RESETS:
        module.__dict__.pop(name, None)
    for hooks in (module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks):  # noqa: SLF001 - a handle would not survive a deepcopy
        for key in [key for key, hook in hooks.items() if _owner(hook) is held]:
            del hooks[key]


def release_to(module: nn.Module, model: nn.Module) -> None:
    """Hold a module no longer, as one is unfrozen: it follows ``train()`` again, in the mode that its model is in."""
    release(module)
    module.train(model.training)


def is_held(module: nn.Module) -> bool:
    """Whether this module is frozen, so that ``train()`` leaves it in eval mode."""
    return isinstance(module.__dict__.get("train"), Held)


def stateful(model: nn.Module, *, whole: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """The modules of ``model`` to hold once frozen, by path: they may change own buffers as they run in train mode.

    Norms with running statistics, spectral norm and its vectors, codebooks: all that have floating-point buffers which
    are saved. Tables of indices never change.

    Args:
        model: Any module.
        whole: Whether ``model`` itself counts.
    """
    for path, module in model.named_modules():
        kept = module._non_persistent_buffers_set  # noqa: SLF001 - torch has no public name for it
        if (path or whole) and any(
            tensor.is_floating_point() and name not in kept for name, tensor in _buffers(module)
        ):
            yield path, module


def hold_frozen_parts(module: nn.Module) -> None:
    """Hold what may change buffers inside ``module`` and was frozen by its owner."""
    for _, each in stateful(module, whole=True):
        own = [parameter.requires_grad for parameter in each.parameters(recurse=False)]
        all_frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if (own and not any(own)) or (not own and all_frozen and next(module.parameters(), None) is not None):
            hold(each)


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers of a held module itself, with their names."""
    return list(module.named_buffers(recurse=False))


def _owner(hook: Any) -> object:
    """The object that a hook is a method of, by which the one that holds a module is found again."""
    inner = getattr(hook, "hook", hook)
    return getattr(inner, "__self__", None)


def _keep_statistics(module: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
    """What a buffer of a held module is set to: the values that it has, whatever another library assigns.

    Lightning's ``StochasticWeightAveraging`` puts zeros there, and so loses what the frozen part was trained with.
    """
    held = module.__dict__.get("train")
    if not isinstance(held, Held) or held.loading or value is None:
        return value
    current = module._buffers.get(name)  # noqa: SLF001 - the attribute would do, but be slower
    if current is None or value.is_meta or current.is_meta:
        return value
    if name in held.counts and value is current:  # ``module.num_batches_tracked *= 0`` has changed it already
        with torch.no_grad():
            current.copy_(held.counts[name])
        return current
    same = value.shape == current.shape and torch.equal(value.detach().to(current), current.detach())
    return value if same else current


register_module_buffer_registration_hook(_keep_statistics)  # type: ignore[arg-type]  # what it returns is stored


def _hold_what_takes_over(parent: nn.Module, name: str, module: nn.Module | None) -> None:
    """Hold and freeze a norm that takes the statistics of a held one with it into its place, as converters put it.

    Synchronized norms take the parameters too; timm's ``SplitBatchNorm2d`` has copies of them, which would train.
    """
    before = parent._modules.get(name)  # noqa: SLF001 - get_submodule would raise
    held = before.__dict__.get("train") if before is not None else None
    if not isinstance(held, Held) or module is None or module is before or is_held(module) or held.is_unfrozen():
        return
    mean = getattr(module, "running_mean", None)
    if mean is not None and mean is getattr(before, "running_mean", None):
        if held.frozen:
            module.requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
        for _, each in stateful(module, whole=True):
            hold(each, held.root() if held.root is not None else None)


register_module_module_registration_hook(_hold_what_takes_over)
