"""Classes made on the fly: a module whose class is the library's own with one method more, which copies and pickles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


_HOW = "_zoo_variant"
_CLASSES: dict[Any, type[Any]] = {}


class Variant:
    """Base of what is put before a library's class; copies and pickles name the library's class and make it anew.

    A forward on an instance is not seen by FX, by quantization and by replicas, which all read the class. A class of
    the same name, a subclass of the library's, is.
    """

    def __reduce_ex__(self, protocol: Any, /) -> Any:  # noqa: ANN401 - the signature of object
        """A new module of such a class, with the same state."""
        return _new, (_recipe(type(self)),), self.__dict__


def variant(base: type[Any], extra: type[Variant], key: tuple[str, ...]) -> type[Any]:
    """The subclass of ``base`` with the methods of ``extra``, of the same name; one class for one ``key``."""
    how = (base, extra, key)
    if how not in _CLASSES:
        _CLASSES.setdefault(how, _made(*how))  # one class also where two threads come at once
    return _CLASSES[how]


def _made(base: type[Any], extra: type[Variant], key: tuple[str, ...]) -> type[Any]:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (extra, base), {**names, "_zoo_key": key, _HOW: (base, extra, key)})


def without(cls: type[Any], extra: type[Variant]) -> type[Any]:
    """``cls`` without the methods of ``extra``."""
    how = cls.__dict__.get(_HOW)
    if how is None:
        return cls
    inner = without(how[0], extra)
    return inner if how[1] is extra else variant(inner, how[1], how[2])


def library_class(cls: type[Any]) -> type[Any]:
    """The class that was there before any of these."""
    how = cls.__dict__.get(_HOW)
    return cls if how is None else library_class(how[0])


def _recipe(cls: type[Any]) -> Any:  # noqa: ANN401 - a class, or nested tuples of classes
    how = cls.__dict__.get(_HOW)
    return cls if how is None else (_recipe(how[0]), how[1], how[2])


def _class_of(recipe: Any) -> type[Any]:  # noqa: ANN401 - as _recipe gives it
    if isinstance(recipe, tuple):
        return variant(_class_of(recipe[0]), recipe[1], recipe[2])
    found: type[Any] = recipe
    return found


def _new(recipe: Any) -> nn.Module:  # noqa: ANN401 - as _recipe gives it
    module: nn.Module = object.__new__(_class_of(recipe))
    return module
