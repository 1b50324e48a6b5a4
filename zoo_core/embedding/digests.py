"""What the features of a dataset depend on, in one digest: the numbers of a backbone, and the data as it sees them."""

from __future__ import annotations

import dis
import hashlib
import re
import warnings
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _everywhere

from zoo_core.errors import UsageError, ZooWarning
from zoo_core.utils.attributes import own_methods
from zoo_core.weights.formats.safetensors import bytes_of

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SAMPLES = 16
_NO_SETTINGS = {
    *vars(nn.Module()),
    *("num_classes", "grad_checkpointing", "pretrained_cfg", "default_cfg"),
}
"""Attributes that change nothing of what a backbone gives in eval mode."""
_OPERATIONS = (FunctionType, BuiltinFunctionType, partial, type)
_LIBRARIES = {"torch", "torchvision", "timm", "zoo_core"}
"""Whose functions are known by their names."""
_DEEPEST = 4
"""Functions that hold functions, and so on."""


def digest_of_module(module: nn.Module) -> str:
    """The SHA-256 of what a module is made of and how it is set, of its hooks, and of every parameter and buffer in it.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> before = digest_of_module(layer)
        >>> _ = layer.running_mean.add_(1)
        >>> digest_of_module(layer) == before
        False
    """
    hasher = hashlib.sha256(f"{type(module).__module__} {_ADDRESS.sub('', repr(module))}".encode())
    for name, value in _settings(module):
        hasher.update(f"\n{name} {value}".encode())
    for name, code in _codes(module):
        hasher.update(f"\n{name} {code}".encode())
    parameters, buffers = (of(remove_duplicate=False) for of in (module.named_parameters, module.named_buffers))
    for name, tensor in (*parameters, *buffers):
        hasher.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def unknown_in(module: nn.Module) -> list[str]:
    """The hooks and methods set by hand that the digest of a backbone cannot hold."""
    return [name for name, code in _codes(module) if code is None]


def _settings(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Attributes of modules that go into a backbone's digest: plain values or functions, often not in ``repr``."""
    for path, each in module.named_modules():
        yield path, f"{type(each).__module__}.{type(each).__qualname__}"
        if isinstance(each, torch.jit.ScriptModule | torch.fx.GraphModule):
            yield f"{path}.code", each.code
        for name, value in sorted(vars(each).items()):
            if name in _NO_SETTINGS or name.startswith("_zoo_") or _is_of_zoo(value):
                continue
            said = (
                _callable_text(value, (), 0)
                if isinstance(value, _OPERATIONS) and name != "forward"
                else _plain_text(value)
            )
            if said is not None:
                yield f"{path}.{name}", said


def _is_of_zoo(value: object) -> bool:
    return isinstance(value, FunctionType) and (value.__module__ or "").startswith("zoo_core.")


def _plain_text(value: object) -> str | None:
    """Text in a digest for a plain value; None for what is no plain value."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | np.generic):
        return repr(value)
    if isinstance(value, Tensor) and not value.is_meta:
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(bytes_of(value)).hexdigest()}"
    if isinstance(value, dict):
        return _plain_text([each for item in value.items() for each in item])
    if isinstance(value, tuple | list | set | frozenset):
        every = [_plain_text(each) for each in value]
        said = [each for each in every if each is not None]
        if len(said) == len(every):
            return repr(said if isinstance(value, tuple | list) else sorted(said))
    return None


def _codes(module: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Code for a backbone's digest beside the methods of classes: hooks, and methods set on a module."""
    inside = tuple(module.modules())
    for hook in (*_everywhere._global_forward_pre_hooks.values(), *_everywhere._global_forward_hooks.values()):  # noqa: SLF001 - no public way to see them
        yield f"{_said(hook)} on all modules", _callable_text(hook, inside, 0)
    for path, each in module.named_modules():
        at = path or type(module).__name__
        for hook in (*each._forward_pre_hooks.values(), *each._forward_hooks.values()):  # noqa: SLF001 - as above
            yield f"the hook {_said(hook)} on {at}", _callable_text(hook, inside, 0)
        for name, function in own_methods(each).items():
            if name != "forward" or "_orig_mod" not in each._modules:  # noqa: SLF001 - torch.compile sets one
                yield f"the {name} of {at}", _callable_text(function, inside, 0)


def _said(hook: object) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__qualname__))


def _callable_text(value: object, inside: tuple[nn.Module, ...], depth: int) -> str | None:
    """Text in a digest for a callable, or for what it holds; None where that does not say what it does."""
    numbers = [number for number, each in enumerate(inside) if each is value]
    if numbers:
        return f"module {numbers[0]} of the backbone"
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, type | BuiltinFunctionType | FunctionType) and _is_known_by_name(value):
        return f"{value.__module__}.{value.__qualname__}"
    said = _plain_text(value)
    return _code_text(value, inside, depth) if said is None and depth <= _DEEPEST else said


def _is_known_by_name(value: type | BuiltinFunctionType | FunctionType) -> bool:
    """Whether the name of a callable says enough for a digest: it is a class or a library's."""
    of_library = (value.__module__ or "").partition(".")[0] in _LIBRARIES and "<" not in value.__qualname__
    return of_library or not isinstance(value, FunctionType)


def _code_text(value: object, inside: tuple[nn.Module, ...], depth: int) -> str | None:
    """Text in a digest for a callable's code and the plain values it holds; None where they do not say what it does."""
    if isinstance(value, MethodType):
        held: list[object] = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        held = [value.func, *value.args, *value.keywords, *value.keywords.values()]
    elif isinstance(value, FunctionType):
        known = value.__globals__
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        used = [known[name] for name in _globals_of(value.__code__) if name in known]
        held = [_bytecode(value.__code__), *cells, *used, value.__defaults__, value.__kwdefaults__]
    elif type(value).__module__.startswith("torch.") and not isinstance(value, nn.Module):
        # such as weight_norm, whose hooks are objects
        held = [_said(value), [(name, each) for name, each in sorted(vars(value).items()) if _plain_text(each)]]
    else:
        return None
    parts = [_callable_text(each, inside, depth + 1) for each in held]
    return None if None in parts else repr(parts)


def _globals_of(code: CodeType) -> list[str]:
    """Names of the globals that code loads on which features depend, so that their digest covers the values."""
    inner = [name for each in code.co_consts if isinstance(each, CodeType) for name in _globals_of(each)]
    own = [str(each.argval) for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"]
    return sorted({*own, *inner})


def _bytecode(code: CodeType) -> str:
    """The bytecode and constants of a function, as they go into a digest."""
    consts = [_bytecode(each) if isinstance(each, CodeType) else _plain_text(each) for each in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, consts))


def digest_of_samples(dataset: Any, total: int) -> str:
    """The SHA-256 of the length of a dataset and of a few samples, evenly spaced, as it gives them.

    Raises:
        UsageError: A sample is not such a pair.

    Warns:
        ZooWarning: The dataset gives another image when it is read again.
    """
    hasher = hashlib.sha256(str(total).encode())
    for number in range(min(_SAMPLES, total)):
        index = number * total // min(_SAMPLES, total)
        image, target = _image_and_target(dataset[index])
        if number == 0:
            _warn_of_chance(image, _image_and_target(dataset[index])[0])
        for tensor in (image, torch.as_tensor(target, device="cpu")):
            hasher.update(f"\n{index} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def _image_and_target(sample: object) -> tuple[Tensor, Any]:
    """Image and target of a sample, whose values go into the digest of a dataset.

    Raises:
        UsageError: It is something else.
    """
    numbers = (Tensor, int, float)
    if isinstance(sample, tuple | list) and len(sample) == 2 and isinstance(sample[0], Tensor):  # noqa: PLR2004 - a pair
        if isinstance(sample[1], numbers):
            return sample[0], sample[1]
        got = f"a target of type {type(sample[1]).__name__}"
    else:
        got = f"a sample of type {type(sample).__name__}"
        if isinstance(sample, tuple | list):
            got = f"({', '.join(type(part).__name__ for part in sample)})"
    raise UsageError(
        "features can be kept of pairs of tensors only",
        expected="dataset[i] to be (image, target): a tensor, and a number or a tensor",
        got=got,
        hint="put the preprocessing of the model, and ToTensor, into the dataset",
    )


def _warn_of_chance(first: Tensor, again: Tensor) -> None:
    """Warn that the digest of a dataset is of one random draw: the same index gives another image each time."""
    if not torch.equal(first, again):
        warnings.warn(
            "the dataset gives another image each time the same index is read: what is kept are the features "
            "of one draw, used again in every epoch; take random augmentation out, or train without cached features",
            ZooWarning,
            stacklevel=5,
        )
