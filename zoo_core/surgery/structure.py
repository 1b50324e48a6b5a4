"""The structure of a model at one time: names and shapes of its tensors, and kinds of its layers, to see changes by."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, takewhile
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy
from zoo_core.surgery.features.forward import forward_of
from zoo_core.utils.compiled import WRAPPED, as_before_compile

WALKED = nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict
"""The modules that a forward walks through and does not call, so that they are no layers."""


@dataclass(frozen=True)
class Structure:
    """Names and shapes of the tensors of a model at one time, and what kinds of layers it has.

    Attributes:
        shapes: Name of each parameter to its shape, and of each buffer in the state dict to None: some change their
            shape as the model runs.
        kinds: Path of each module to the kind of torch's layers that it is, and its stride where it has one.
        forward: Which forward the model itself has.
        settings: Numbers, words and functions that the model and modules in it hold as attributes, as text, and the
            forward and the hooks of those modules.
    """

    shapes: Mapping[str, tuple[int, ...] | None]
    kinds: Mapping[str, str]
    forward: str = ""
    settings: tuple[tuple[str, str], ...] = ()

    def __deepcopy__(self, memo: object) -> Structure:
        """The very same: it never changes, and copying a model copies what it carries."""
        return self

    def changed_since(self, before: Structure) -> set[str]:
        """Names of the tensors that are new, gone, of another shape or in another kind of layer.

        A layer without tensors that is new, gone or of another kind is there with its own path.
        """
        names = {*self.shapes, *before.shapes}
        paths = {*self.kinds, *before.kinds}
        others = {path for path in paths if self.kinds.get(path) != before.kinds.get(path)}
        owners = {name.rpartition(".")[0] for name in names} if others else set()
        return {
            name
            for name in names
            if self.shapes.get(name) != before.shapes.get(name) or (others and name.rpartition(".")[0] in others)
        } | (others - owners)

    def before_compile(self) -> Structure:
        """The same under the names that tensors and layers had before ``torch.compile`` wrapped some of them."""
        shapes = {as_before_compile(name): shape for name, shape in self.shapes.items()}
        kinds = {as_before_compile(path): kind for path, kind in self.kinds.items()}  # the inner one comes last
        return Structure(shapes, kinds, self.forward, self.settings)


def structure_of(model: nn.Module, opened: Iterable[str] = ()) -> Structure:
    """Names and shapes of all tensors of ``model``, as they are now.

    Args:
        model: Any module.
        opened: Paths of modules whose attributes count too, as their forward was written down when it was traced.

    Example:
        >>> structure_of(nn.Linear(3, 2)).shapes
        {'weight': (2, 3), 'bias': (2,)}
    """
    shapes: dict[str, tuple[int, ...] | None] = {}
    kinds: dict[str, str] = {}
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - a mode would be called for each shape, in three times the time
        _note(model, "", shapes, kinds)
    settings = tuple((f"{path}.{name}", value) for path in opened for name, value in _settings(model, path))
    return Structure(shapes, kinds, _name_of_forward(model), settings)


def _name_of_forward(model: nn.Module) -> str:
    """A name of the forward in a structure that no other forward of the model has, the methods that it calls included.

    One of an instance is told by its identity. What libraries split their forward into, such as ``_forward_impl`` or
    ``logits``, is replaced as forward itself is: on the instance, or by a class of the user's own.
    """
    result = forward_of(model)
    function = getattr(result, "__func__", result)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
    is_own = "forward" in model.__dict__ and function is not inspect.getattr_static(type(model), "forward", None)
    return " ".join([f"{name} {id(function)}" if is_own else name, *_names_of_called(model, function)])


def _names_of_called(model: nn.Module, function: object) -> Iterator[str]:
    """A name of each function of the model, or of its class, that a forward in a structure calls, at any depth."""
    seen, rest = {"forward"}, [function]
    while rest:
        code = getattr(rest.pop(), "__code__", None)
        for name in code.co_names if code else ():
            if name in seen or name in _OF_EVERY_MODULE:
                continue
            seen.add(name)
            for owner in (model, *takewhile(lambda kind: kind is not nn.Module, type(model).__mro__)):
                value = owner.__dict__.get(name)
                value = getattr(value, "__func__", value)
                if isinstance(value, FunctionType):
                    rest.append(value)
                    yield str(_as_text(value))


_OF_EVERY_MODULE = frozenset({*nn.Module().__dict__, "forward", "_is_accelerate_prepared"})
_PLAIN = int | float | complex | str | bytes | None | torch.dtype | torch.device
_FUNCTIONS = FunctionType | BuiltinFunctionType | type
_MOST = 100
"""Values of a list or dict that are compared: more are data, and no settings."""


def _settings(model: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    """Name and text of each attribute of a module that its forward may read, for the structure of the model.

    The forward and hooks of one inside the model too: they were written down when it was traced, and run no more.
    """
    try:
        module = model.get_submodule(path)
    except (AttributeError, RuntimeError):  # it is gone, or scripted: that keeps its attributes out of Python
        return
    module = module._modules.get(WRAPPED) or module  # noqa: SLF001 - as in tensors_of
    for name, value in sorted(module.__dict__.items()):
        text = None if name in _OF_EVERY_MODULE or name.startswith("_zoo") else _as_text(value)
        if text is not None:
            yield name, text
    if path:  # what the model itself runs is compared apart
        yield "forward", "" if isinstance(module, torch.jit.ScriptModule) else _name_of_forward(module)
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())  # noqa: SLF001 - no public way to see them
        yield "hooks", " ".join(f"{type(hook).__name__} {id(hook)}" for hook in hooks)


def _as_text(value: object) -> str | None:
    """The text of an attribute, to see in the structure of a model that it was changed; None where it has none."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, _FUNCTIONS):
        is_named = "<" not in value.__qualname__  # a lambda has the name of any other
        return f"{value.__module__}.{value.__qualname__}" if is_named else f"{value.__qualname__} {id(value)}"
    if isinstance(value, tuple | list) and len(value) <= _MOST:
        return f"[{', '.join(map(str, map(_as_text, value)))}]"
    if isinstance(value, dict) and len(value) <= _MOST:
        return f"{{{', '.join(f'{name!r}: {_as_text(each)}' for name, each in value.items())}}}"
    return None


def _note(module: nn.Module, prefix: str, shapes: dict[str, tuple[int, ...] | None], kinds: dict[str, str]) -> None:
    """Write down names and shapes for :class:`Structure`, in one walk: every verb begins and ends with it."""
    parameters, buffers, unsaved = module._parameters, module._buffers, module._non_persistent_buffers_set  # noqa: SLF001 - as in tensors_of
    kind, stride = _kind(type(module)), module.__dict__.get("stride")  # type: ignore[arg-type]  # mypy takes the hash of a class for its objects'
    kinds[prefix[:-1]] = kind if stride is None else f"{kind} {stride}"
    for name, parameter in parameters.items():
        if parameter is not None:
            shapes[prefix + name] = () if nn.parameter.is_lazy(parameter) else tuple(parameter.shape)
    for name, buffer in buffers.items():
        if buffer is not None and name not in unsaved:
            shapes[prefix + name] = None
    for name, child in module._modules.items():  # noqa: SLF001 - as in tensors_of
        if child is not None:
            _note(child, f"{prefix}{name}.", shapes, kinds)


@cache
def _kind(kind: type) -> str:
    """The kind of layer that a structure notes for a class: the one of torch it is or derives from."""
    if issubclass(kind, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the base of all of them
        return "BatchNorm"
    return next(each.__name__ for each in kind.__mro__ if each.__module__.startswith("torch.nn.modules."))


def modules_around_parts(anatomy: Anatomy) -> list[str]:
    """Paths of the modules of a structure that hold several parts of the anatomy, the model itself first."""
    paths = [site.path for site in anatomy.heads] + [path for stage in anatomy.stages for path in stage.modules]
    around = {path[:end]: None for path in paths for end in range(len(path)) if path[end] == "."}
    return ["", *around]


def tensors_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor whose shape makes up the structure of a model; shared ones by every name."""
    # named_parameters would drop what is shared, and takes five times as long
    for name, parameter in module._parameters.items():  # noqa: SLF001 - torch has no public way
        if parameter is not None:
            yield prefix + name, parameter
    for name, buffer in module._buffers.items():  # noqa: SLF001 - torch has no public way
        if buffer is not None and name not in module._non_persistent_buffers_set:  # noqa: SLF001
            yield prefix + name, buffer
    for name, child in module._modules.items():  # noqa: SLF001 - torch has no public way
        if child is not None:
            yield from tensors_of(child, f"{prefix}{name}.")


def under(name: str, path: str) -> bool:
    """Whether the tensor ``name`` is in the module ``path`` of a model's structure, or is it.

    What ``torch.compile`` adds to the names of the tensors in a layer that it wraps does not count.

    Example:
        >>> under("layer1._orig_mod.0.conv1.weight", "layer1.0"), under("layer10.weight", "layer1")
        (True, False)
    """
    name, path = as_before_compile(name), as_before_compile(path)
    return name == path or name.startswith(f"{path}.")


def paths_around(name: str) -> Iterator[str]:
    """The paths of a model's structure that a tensor is :func:`under`, the outermost first, and its own name.

    Example:
        >>> [*paths_around("layer1._orig_mod.0.weight")]
        ['layer1', 'layer1.0', 'layer1.0.weight']
    """
    return accumulate(as_before_compile(name).split("."), "{}.{}".format)
