"""A subclass of a library's class, with its name and other methods: what copies, pickles, FX and replicas all see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


_HOW = "_zoo_variant"


COMPILED = "_compiled_call_impl"
"""Where ``module.compile()`` keeps what runs the module; torch leaves it out of copies and pickles, too."""


_CLASSES: dict[Any, type[Any]] = {}


class Variant:
    """Base of what is put before a library's class, as another forward is; pickles name that class and make it anew.

    A forward on an instance is not seen by FX, by quantization and by replicas, which all read the class. A class of
    the same name, a subclass of the library's, is.
    """

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        """A new module of such a class, with the same state."""
        state = {name: value for name, value in self.__dict__.items() if name != COMPILED}
        return _new, (_recipe(type(self)),), state


def variant(base: type[Any], extra: type[Variant], key: tuple[str, ...]) -> type[Any]:
    """The subclass of ``base``, of its name, with the methods of ``extra``, such as a forward; one for one ``key``."""
    how = (base, extra, key)
    if how not in _CLASSES:
        _CLASSES.setdefault(how, _made(*how))  # one class also where two threads come at once
    return _CLASSES[how]


def _made(base: type[Any], extra: type[Variant], key: tuple[str, ...]) -> type[Any]:
    """A new subclass of a library's class, of its name, with a forward or other methods put before the library's."""
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    own = {"_zoo_key": key} if key else {}  # a class before a tap's must not hide the key of the tap
    return type(base.__name__, (extra, base), {**names, **own, _HOW: (base, extra, key)})


def without(cls: type[Any], extra: type[Variant]) -> type[Any]:
    """``cls`` without the methods of ``extra``, such as a forward that was put before the library's."""
    how = cls.__dict__.get(_HOW)
    if how is None:
        return cls
    inner = without(how[0], extra)
    return inner if how[1] is extra else variant(inner, how[1], how[2])


def library_class(cls: type[Any]) -> type[Any]:
    """The class of the library, as it was before a forward or anything else was put before it."""
    how = cls.__dict__.get(_HOW)
    return cls if how is None else library_class(how[0])


def _recipe(cls: type[Any]) -> Any:
    """A variant of a library's class as nested tuples, from which a pickle makes it anew."""
    how = cls.__dict__.get(_HOW)
    return cls if how is None else (_recipe(how[0]), how[1], how[2])


def _class_of(recipe: Any) -> type[Any]:
    """The variant of a library's class that nested tuples in a pickle describe."""
    if isinstance(recipe, tuple):
        return variant(_class_of(recipe[0]), recipe[1], recipe[2])
    result: type[Any] = recipe
    return result


def _new(recipe: Any) -> nn.Module:
    """An empty module of the variant of a class that a pickle or a copy describes."""
    module: nn.Module = object.__new__(_class_of(recipe))
    return module
