"""Another forward for one model than its library's: put together from its anatomy, in a class that copies see too."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from zoo_core.contract.anatomy import Anatomy

if TYPE_CHECKING:
    from torch import nn


_HOW = "_zoo_variant"


COMPILED = "_compiled_call_impl"
"""Where ``module.compile()`` keeps what runs the module; torch leaves it out of copies and pickles, too."""


_CLASSES: dict[Any, type[Any]] = {}


class Variant:
    """Base of what gives a library's class another forward or call; pickles name that class and make it anew.

    A forward on an instance is not seen by FX, by quantization and by replicas, which all read the class. A class of
    the same name, a subclass of the library's, is.
    """

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        """A new module of such a class, with the same state."""
        state = {name: value for name, value in self.__dict__.items() if name != COMPILED}
        return _new, (_variant_as_tuples(type(self)),), state


def variant(base: type[Any], extra: type[Variant], key: tuple[str, ...]) -> type[Any]:
    """The subclass of ``base`` by which a model gets another forward or call, from ``extra``; one for one ``key``."""
    how = (base, extra, key)
    if how not in _CLASSES:
        names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
        own = {"_zoo_key": key} if key else {}  # a class before a tap's must not hide the key of the tap
        new = type(base.__name__, (extra, base), {**names, **own, _HOW: how})
        _CLASSES.setdefault(how, new)  # one class also where two threads come at once
    return _CLASSES[how]


def without_variant(cls: type[Any], extra: type[Variant]) -> type[Any]:
    """``cls`` as it was before a forward or call of ``extra`` was put before the library's; the same where none was."""
    how = cls.__dict__.get(_HOW)
    if how is None:
        return cls
    inner = without_variant(how[0], extra)
    return inner if how[1] is extra else variant(inner, how[1], how[2])


def library_class(cls: type[Any]) -> type[Any]:
    """The class whose forward is the library's own, before another forward or anything else was put before it."""
    how = cls.__dict__.get(_HOW)
    return cls if how is None else library_class(how[0])


def _variant_as_tuples(cls: type[Any]) -> Any:
    """The class that gives a model another forward than its library's, as nested tuples for a pickle or a copy."""
    how = cls.__dict__.get(_HOW)
    return cls if how is None else (_variant_as_tuples(how[0]), how[1], how[2])


def _class_of(recipe: Any) -> type[Any]:
    """The class that gives a model another forward than its library's, from nested tuples in a pickle or a copy."""
    if isinstance(recipe, tuple):
        return variant(_class_of(recipe[0]), recipe[1], recipe[2])
    result: type[Any] = recipe
    return result


def _new(recipe: Any) -> nn.Module:
    """An empty module of the class with another forward than its library's that a pickle or a copy describes."""
    module: nn.Module = object.__new__(_class_of(recipe))
    return module


_PLAN, _LIBRARYS = "_zoo_plan", "_zoo_library_forward"


class _Call(threading.local):
    """The recomposed model whose library's forward runs in this thread in the place of the one put together here."""

    of: object = None


_CALL = _Call()


@dataclass(frozen=True)
class Plan:
    """What the forward of one model is put together from.

    Attributes:
        anatomy: Its parts; ``features`` must be there, while ``pool``, ``classify`` and heads may be missing, and
            ``scores`` is None, since nothing but scores is returned.
        scores: ``Anatomy.scores`` for the library's own forward.
    """

    anatomy: Anatomy
    scores: str | Callable[[Any], Any] | None


class Recomposed(Variant):
    """Class with a new ``forward`` for a model, put before its own: features, pool and head, as its plan says.

    A class and not an attribute of the instance, so that FX, quantization, replicas and copies run this forward too; of
    the same name, and a subclass of the library's.
    """

    def forward(self, x: Any) -> Any:
        """Images to what the head gives, or to the features of a model without one; never to an output object."""
        if _CALL.of is self:  # a forward on the instance that calls the one of its class means the library's
            return library_class(type(self)).forward(self, x)
        plan: Plan = self.__dict__[_PLAN]
        anatomy, model = plan.anatomy, cast("nn.Module", self)
        features = anatomy.features(model, x) if anatomy.features else x
        pooled = anatomy.pool(model, features) if anatomy.pool else features
        if anatomy.classify:
            return anatomy.classify(model, pooled)
        return pooled if anatomy.main is None else model.get_submodule(anatomy.main.path)(pooled)


def recompose(model: nn.Module, anatomy: Anatomy, scores: str | Callable[[Any], Any] | None = None) -> None:
    """Make the forward of ``model`` run as this anatomy says, whatever that of its class does.

    Args:
        model: Changed in place.
        anatomy: Its parts from now on.
        scores: Where the library's own forward has its scores, for the day it is restored.
    """
    restore_forward(model)
    if "forward" in model.__dict__:  # some libraries bind it to each instance
        model.__dict__[_LIBRARYS] = model.__dict__.pop("forward")
    model.__dict__[_PLAN] = Plan(anatomy, scores)
    model.__class__ = variant(type(model), Recomposed, ())


def restore_forward(model: nn.Module) -> None:
    """Make ``model`` run as its library made it; nothing happens where it does already."""
    if is_recomposed(model):
        model.__class__ = without_variant(type(model), Recomposed)
        del model.__dict__[_PLAN]
        if _LIBRARYS in model.__dict__:
            model.__dict__["forward"] = model.__dict__.pop(_LIBRARYS)


def is_recomposed(model: nn.Module) -> bool:
    """Whether the forward of ``model`` was put together here."""
    return isinstance(model, Recomposed)


def library_scores(model: nn.Module, anatomy: Anatomy) -> str | Callable[[Any], Any] | None:
    """Where the scores are in what the library's own forward returns, whatever other forward stands in for it now."""
    scores: str | Callable[[Any], Any] | None = anatomy.scores
    return model.__dict__[_PLAN].scores if is_recomposed(model) else scores


_ONLY_WRAP = ("torch", "accelerate")
"""Libraries whose decorators of a forward compute what it computes: ``torch.compile``, autocast."""


def forward_of(model: nn.Module) -> Callable[..., Any]:
    """The forward that ``model`` has now, without what torch or accelerate put around it."""
    return cast("Callable[..., Any]", without_wrappers(model.forward))


def without_wrappers(method: Any) -> Any:
    """A method of a module without what torch or accelerate put around it; any other wrapper may compute something."""
    while inner := getattr(method, "__wrapped__", None):
        function = getattr(method, "__func__", method)
        by_code: dict[str, Any] = getattr(function, "__globals__", {"__name__": type(function).__module__})
        library = by_code.get("__name__", "")  # an object that wraps has the module of what it wraps itself
        if library.partition(".")[0] not in _ONLY_WRAP:
            break
        method = inner
    return method


def _library_forward(model: nn.Module) -> Callable[..., Any]:
    """The forward that the library wrote for ``model``, whatever other forward is in its place."""
    own: Callable[..., Any] | None = model.__dict__.get(_LIBRARYS)
    return own or MethodType(library_class(type(model)).forward, model)


def with_pre_hooks(model: nn.Module, x: Any) -> Any:
    """What the forward pre-hooks of ``model`` itself make of ``x``, for a piece of its forward that starts with it.

    Those of FSDP are left out: they come in pairs with hooks after the forward.
    """
    if needs_fsdp_hooks(model) or not model._forward_pre_hooks:  # noqa: SLF001 - no public way to run them
        return x
    args, kwargs = forward_arguments(model, x)
    for key, hook in model._forward_pre_hooks.items():  # noqa: SLF001 - as above
        if key in model._forward_pre_hooks_with_kwargs:  # noqa: SLF001 - as above
            args, kwargs = hook(model, args, kwargs) or (args, kwargs)
        elif (result := hook(model, args)) is not None:
            args = result if isinstance(result, tuple) else (result,)
    return forward_input(model, args, kwargs)


def with_hooks(model: nn.Module, pooled: Any, result: Any) -> Any:
    """What the forward hooks of ``model`` itself make of ``result``, for a piece of its forward that ends with it.

    Their arguments are ``pooled``, since the images are not at hand there.
    """
    if needs_fsdp_hooks(model):
        return result
    for key, hook in model._forward_hooks.items():  # noqa: SLF001 - no public way to run them
        has_kwargs = key in model._forward_hooks_with_kwargs  # noqa: SLF001 - as above
        changed = hook(model, (pooled,), {}, result) if has_kwargs else hook(model, (pooled,), result)
        result = result if changed is None else changed
    return result


def without_hooks(model: nn.Module, x: Any) -> Any:
    """What the library's own forward gives for ``x``, without the hooks of ``model`` around it; FSDP needs its own."""
    args, kwargs = forward_arguments(model, x)
    if is_recomposed(model):
        outer = _CALL.of
        _CALL.of = model if _LIBRARYS in model.__dict__ else None
        try:
            return _library_forward(model)(*args, **kwargs)
        finally:
            _CALL.of = outer
    return model(*args, **kwargs) if needs_fsdp_hooks(model) else model.forward(*args, **kwargs)


def needs_fsdp_hooks(model: nn.Module) -> bool:
    """Whether the forward of ``model`` cannot run without its own hooks around it, by which FSDP shards it."""
    return any(kind.__name__ == "FSDPModule" for kind in type(model).__mro__)


def run_forward(model: nn.Module, x: Any) -> Any:
    """Run the forward of ``model`` on ``x``, which may stand for several arguments of it."""
    args, kwargs = forward_arguments(model, x)
    return model(*args, **kwargs)


def forward_input(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the forward of a model was called with, as one value that :func:`forward_arguments` takes apart again."""
    if kwargs:
        return {**dict(zip(inspect.signature(_library_forward(model)).parameters, args, strict=False)), **kwargs}
    return args[0] if len(args) == 1 else args


def forward_arguments(model: nn.Module, x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How the forward of a model is called on ``x``: with which arguments, and with which by name.

    Args:
        model: What takes it.
        x: A tuple is several arguments. A dict is arguments by name, or the one argument of a forward that has no
            arguments of these names.
    """
    if isinstance(x, dict) and all(isinstance(name, str) for name in x):
        try:
            inspect.signature(_library_forward(model)).bind(**x)
        except (TypeError, ValueError):  # other names, or a forward that is not written in Python
            return (x,), {}
        return (), x
    return (x, {}) if type(x) is tuple else ((x,), {})
