"""What the features of a dataset depend on, in one digest: the numbers of a backbone, and the data as it sees them."""

from __future__ import annotations

import hashlib
import re
import warnings
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _everywhere

from zoo_core.errors import UsageError, ZooWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SAMPLES = 16
_NO_SETTINGS = {*vars(nn.Module()), "num_classes", "grad_checkpointing"}
"""Attributes that change nothing of what a backbone gives in eval mode."""
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
    for name, tensor in _tensors(module):
        hasher.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def unknown_in(module: nn.Module) -> list[str]:
    """The hooks and methods set by hand of which :func:`digest_of_module` cannot tell what they do."""
    return [name for name, code in _codes(module) if code is None]


def _settings(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Attributes of every module in one that are plain values or functions, which ``repr`` need not show."""
    for path, each in module.named_modules():
        yield path, f"{type(each).__module__}.{type(each).__qualname__}"
        for name, value in sorted(vars(each).items()):
            if name in _NO_SETTINGS or name.startswith("_zoo_"):
                continue
            said = _code(value, ()) if isinstance(value, FunctionType) and name != "forward" else _plain(value)
            if said is not None:
                yield f"{path}.{name}", said


def _plain(value: object) -> str | None:
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype):
        return repr(value)
    if isinstance(value, tuple | list | frozenset):
        every = [_plain(each) for each in value]
        said = [each for each in every if each is not None]
        if len(said) == len(every):
            return repr(sorted(said) if isinstance(value, frozenset) else said)
    return None


def _codes(module: nn.Module) -> Iterator[tuple[str, str | None]]:
    """What runs beside the methods of classes: hooks, and a ``forward`` that was set on a module itself."""
    inside = tuple(module.modules())
    for hook in (*_everywhere._global_forward_pre_hooks.values(), *_everywhere._global_forward_hooks.values()):  # noqa: SLF001 - no public way to see them
        yield f"{_said(hook)} on all modules", _code(hook, inside)
    for path, each in module.named_modules():
        at = path or type(module).__name__
        for hook in (*each._forward_pre_hooks.values(), *each._forward_hooks.values()):  # noqa: SLF001 - as above
            yield f"the hook {_said(hook)} on {at}", _code(hook, inside)
        if "forward" in vars(each) and "_orig_mod" not in each._modules:  # noqa: SLF001 - torch.compile sets one
            yield f"the forward of {at}", _code(vars(each)["forward"], inside)


def _said(hook: object) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__qualname__))


def _code(value: object, inside: tuple[nn.Module, ...], depth: int = 0) -> str | None:
    """What a callable does, as far as its code and the plain values that it holds say it; None where they do not."""
    if depth > _DEEPEST:
        return None
    more = partial(_part, inside=inside, depth=depth + 1)
    if isinstance(value, MethodType):
        parts = [more(value.__func__), more(value.__self__)]
    elif isinstance(value, partial):
        parts = [more(each) for each in (value.func, *value.args, *value.keywords, *value.keywords.values())]
    elif isinstance(value, FunctionType):
        code, known = value.__code__, value.__globals__
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        near = [(name, _plain(known.get(name))) for name in code.co_names]
        parts = [
            _bytecode(code),
            repr(near),
            *map(more, (*cells, value.__defaults__, *(value.__kwdefaults__ or {}).values())),
        ]
    elif type(value).__module__.startswith("torch."):  # such as weight_norm, whose hooks are objects
        parts = [_said(value), *(f"{name} {_plain(each)}" for name, each in sorted(vars(value).items()))]
    else:
        return None
    return None if None in parts else repr(parts)


def _part(value: object, inside: tuple[nn.Module, ...], depth: int) -> str | None:
    """What is known of something that a callable holds."""
    if any(value is each for each in inside):
        return "a module of the backbone"
    if isinstance(value, type | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    said = _plain(value)
    return _code(value, inside, depth) if said is None else said


def _bytecode(code: CodeType) -> str:
    consts = [_bytecode(each) if isinstance(each, CodeType) else _plain(each) for each in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, consts))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in memory, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    numbers: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(numbers)


def digest_of_samples(dataset: Any, total: int) -> str:  # noqa: ANN401 - any dataset that can be indexed
    """The SHA-256 of the length of a dataset and of a few samples, evenly spaced, as it gives them.

    Args:
        dataset: Gives pairs of an image and a target.
        total: Its length.

    Raises:
        UsageError: A sample is not such a pair.

    Warns:
        ZooWarning: The dataset gives another image when it is read again.
    """
    hasher = hashlib.sha256(str(total).encode())
    for number in range(min(_SAMPLES, total)):
        index = number * total // min(_SAMPLES, total)
        image, target = _pair_in(dataset[index])
        if number == 0:
            _warn_of_chance(image, _pair_in(dataset[index])[0])
        for tensor in (image, torch.as_tensor(target, device="cpu")):
            hasher.update(f"\n{index} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def _pair_in(sample: object) -> tuple[Tensor, Any]:
    """The image and the target of a sample.

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
    if not torch.equal(first, again):
        warnings.warn(
            "the dataset gives another image each time the same index is read: what is kept are the features "
            "of one draw, used again in every epoch; take random augmentation out, or train without cached features",
            ZooWarning,
            stacklevel=5,
        )
