"""Twins of a model: modules with submodules of their own, which share every tensor and the mode with it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, TypeVar, cast

from torch import nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.features.forward import (
    COMPILED,
    Variant,
    forward_of,
    needs_fsdp_hooks,
    variant,
    without_variant,
)
from zoo_core.surgery.hold import is_held
from zoo_core.surgery.metadata import ATTRIBUTE
from zoo_core.utils.attributes import own_methods
from zoo_core.utils.compiled import WRAPPED, inside_compiled, run_wrapped

Hook = Callable[[nn.Module, Any, Any], None]


Module = TypeVar("Module", bound=nn.Module)


REBINDING = (
    "module.forward = types.MethodType(function, module), with function(self, x) that calls the modules of self, "
    "runs on the parts that zoo splits off, too"
)
"""How to write a forward that is put on one module so that it runs on twins of it, too."""


def replaced(model: Module, new: dict[str, nn.Module]) -> Module:
    """A twin of ``model``, as a split-off backbone is, with other modules at some paths and all else shared.

    Args:
        model: Left as it is.
        new: Dotted path to the module that stands there in the twin.
    """
    if (inside := inside_compiled(model, new)) is not None:
        return cast("Module", replaced(inside, new))
    twin = _following(model)
    for path, module in new.items():
        first, _, rest = path.partition(".")
        part = replaced(twin.get_submodule(first), {rest: module}) if rest else module
        twin._modules[first] = part  # noqa: SLF001 - where nn.Module keeps its children
    for name in bound_methods(twin) if new else ():
        is_compiled = name == "forward" and WRAPPED in model._modules  # noqa: SLF001 - as above
        twin.__dict__[name] = MethodType(run_wrapped, twin) if is_compiled else _NotOfATwin(model, name)
    return twin


def bound_methods(module: nn.Module) -> list[str]:
    """Names of methods in whose place a module has functions that run that very one, so that a twin cannot have them.

    ``forward`` may be one, or what it calls, such as ``_forward_impl``.
    """
    every = own_methods(module).items()
    return [name for name, value in every if not (isinstance(value, MethodType) and value.__self__ is module)]


def pruned(model: Module, paths: Iterable[str]) -> Module:
    """A twin of ``model`` split off with only the modules, parameters and buffers at some paths, and sharing them."""
    selected = list(paths)
    if (inside := inside_compiled(model, selected)) is not None:
        return cast("Module", pruned(inside, selected))
    twin = _following(model)
    if "" in selected:
        return twin
    for kind, tensors in (("_parameters", model._parameters), ("_buffers", model._buffers)):  # noqa: SLF001 - as below
        twin.__dict__[kind] = {name: tensor for name, tensor in tensors.items() if name in selected}
    twin.__dict__["_modules"] = {
        name: pruned(child, [path.partition(".")[2] for path in selected if path.split(".", 1)[0] == name])
        for name, child in model.named_children()
        if any(path.split(".", 1)[0] == name for path in selected)
    }
    return twin


def with_unsaved_buffers(model: Module, names: Iterable[str]) -> Module:
    """A twin of ``model`` in which some of its own parameters are buffers that no state dict holds."""
    owners: dict[str, list[str]] = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        owners.setdefault(owner, []).append(leaf)
    result = model
    for owner, leaves in owners.items():
        part = _following(result.get_submodule(owner))
        parameters, buffers = {**part._parameters}, {**part._buffers}  # noqa: SLF001 - torch has no public way
        buffers |= {leaf: tensor.detach() for leaf in leaves if (tensor := parameters.pop(leaf)) is not None}
        unsaved = {*part._non_persistent_buffers_set, *leaves}  # noqa: SLF001 - as above
        part.__dict__.update(_parameters=parameters, _buffers=buffers, _non_persistent_buffers_set=unsaved)
        result = replaced(result, {owner: part}) if owner else cast("Module", part)
    return result


_WHOLE = "_zoo_whole"
"""Name of the attribute in which a twin refers to the module that it is a twin of."""


class Twin(Variant):
    """Put before the class of a twin, such as a split-off backbone, so that it and its model are in one mode.

    All below the two is shared, modes included, and a forward may read the mode of the module itself: timm's GhostNet
    drops out by it. A copy of a twin, and one whose model is gone, has a mode of its own.
    """

    __jit_unused_properties__ = ("training",)

    @property
    def training(self) -> bool:
        """Whether both are in train mode."""
        whole: nn.Module | None = self.__dict__[_WHOLE]() if _WHOLE in self.__dict__ else None
        if whole is not None:
            self.__dict__["training"] = whole.training
        return cast("bool", self.__dict__["training"])

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode
        whole: nn.Module | None = self.__dict__[_WHOLE]() if _WHOLE in self.__dict__ else None
        if whole is not None and not is_held(whole):
            whole.training = mode

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        """As for any variant; a copy follows no model."""
        new, how, state = super().__reduce_ex__(protocol)
        mode = self.training
        return new, how, {**{name: each for name, each in state.items() if name != _WHOLE}, "training": mode}


def _following(model: Module) -> Module:
    """A twin of ``model`` that follows it when it changes its mode."""
    twin = twin_of(model)
    twin.__dict__.setdefault(_WHOLE, weakref.ref(model))  # that of a twin is the twin's own
    twin.__class__ = variant(without_variant(type(model), Twin), Twin, ())
    return twin


def twin_of(model: Module) -> Module:
    """A twin of a module: of the same class and attributes, with a table of submodules of its own.

    The tables of parameters and buffers are the very ones of ``model``: ``model.to(...)`` replaces buffers in them, and
    the twin has to see that.
    """
    twin: Module = object.__new__(model.__class__)  # the class's own would run __init__ where FSDP has sharded
    for name, value in model.__dict__.items():
        # some libraries bind forward to each instance; the twin's must run on the twin
        bound: Any = forward_of(model) if name == "forward" and not isinstance(value, MethodType) else value
        own = isinstance(bound, MethodType) and bound.__self__ is model
        twin.__dict__[name] = MethodType(bound.__func__, twin) if own else value
    twin.__dict__["_modules"] = dict(model._modules)  # noqa: SLF001 - nn.Module has no public way to share its children
    twin.__dict__.pop(ATTRIBUTE, None)
    twin.__dict__.pop(COMPILED, None)  # it runs the model
    return twin


class _NotOfATwin:
    """In the place of a method on an instance, which would run that whole module and not the twin of it."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.kind, self.name = type(model).__name__, name

    def __call__(self, *_: object, **__: object) -> Any:
        raise NotSupported(
            f"the {self.name} of this {self.kind} cannot run on other modules than its own",
            cause="a function is in its place that runs this very module, as a lambda and a functools.partial do",
            hint=f"{REBINDING.replace('forward', self.name)}; a forward hook changes what a module gives, too",
        )


def own_hooks(model: nn.Module, *, before: bool = True) -> None:
    """Give a twin tables of forward hooks of its own: none for the end of its forward, which is another.

    Args:
        model: The twin.
        before: Whether it has its own for its beginning too, which hold what it shared until now.
    """
    if needs_fsdp_hooks(model):
        return
    for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs") if before else ():
        model.__dict__[name] = model.__dict__[name].copy()
    for name in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        model.__dict__[name] = OrderedDict()


class Absent(nn.Module):
    """Stands in a twin where a module of the model was taken out: gives its input, and a walk through it is empty."""

    def __iter__(self) -> Iterator[nn.Module]:
        """Nothing, as checkpointing walks through the layers of a stage."""
        return iter(())

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """``x`` as it is."""
        return x


def hooked(model: Module, hooks: dict[str, Hook]) -> Module:
    """A twin of ``model`` in which modules at some paths have one forward hook more; all else is shared."""
    # Parents come first, so that a module inside another that is hooked too is replaced in the parent's twin.
    return replaced(
        model, {path: _with_hook(model.get_submodule(path), hooks[path]) for path in sorted(hooks, key=len)}
    )


def _with_hook(module: nn.Module, hook: Hook) -> nn.Module:
    """A twin of one module, with its hooks and one more."""
    twin = twin_of(module)
    for kind in ("_forward_hooks", "_forward_pre_hooks"):  # the twin must not share its hooks
        twin.__dict__[kind] = OrderedDict(module.__dict__[kind])
    twin.register_forward_hook(hook)
    return twin
