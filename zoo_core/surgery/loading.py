"""Putting a state dict into a model, with an account of every tensor."""

from __future__ import annotations

from collections import OrderedDict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.errors import LoadMismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from zoo_core.surgery.receipt import Outcome

_whole_load = torch.nn.Module.load_state_dict
"""torch's own: a library's override may drop tensors in silence and return nothing, as those of
segmentation_models_pytorch do. What a file has too much is for ``Weights.ignore`` to say."""

_ALIGNMENT = 64
_COUNTER = "num_batches_tracked"
"""Files from before torch 0.4.1 lack this counter of batch norm; torch fills it in."""


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    ignore: Collection[str] = (),
    absent: Collection[str] = (),
    replaceable: Collection[str] = (),
    source: str = "the file",
    assign: bool = False,
) -> dict[str, Outcome]:
    """Load every tensor of ``state`` into ``model``, or say exactly which ones do not fit.

    Args:
        model: What to load into.
        state: Tensor name to tensor.
        ignore: Glob patterns of names that may be in the file without being in the model.
        absent: Glob patterns of names that may be in the model without being in the file, and stay as they are.
        replaceable: Paths of modules that will get new parameters anyway, so that theirs may differ or be missing.
        source: What to call the file in an error.
        assign: Make the tensors of ``state`` the model's own, instead of copying their values: ``state`` must then be
            used for nothing else.

    Returns:
        Tensor name to what happened to it.

    Raises:
        LoadMismatch: A tensor outside ``replaceable`` is missing, unexpected or of another shape. Nothing was loaded.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> load_state(layer, {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
        {'weight': 'loaded', 'bias': 'loaded'}
    """
    own = model.state_dict()
    given = dict(state)
    outcomes: dict[str, Outcome] = {}
    for name in [name for name in given if name not in own and matches(name, ignore)]:
        del given[name]
        outcomes[name] = "ignored"
    misshaped = {name for name, tensor in given.items() if name in own and own[name].shape != tensor.shape}
    for name in [name for name in misshaped if _under(name, replaceable)]:
        del given[name]
        misshaped.discard(name)
    problems = {name: (tuple(own[name].shape), tuple(given[name].shape)) for name in sorted(misshaped)}
    fitting = {name: tensor for name, tensor in given.items() if name not in problems}
    missing, unexpected = _assign(model, fitting, own) if assign else _copy(model, fitting)
    untouched = {name for name in missing if matches(name, absent) and name not in problems}
    missing = [name for name in missing if not (name in problems or name in untouched or _under(name, replaceable))]
    unexpected = [name for name in unexpected if not _under(name, replaceable)]
    if missing or unexpected or problems:
        raise mismatch(model, source, missing, unexpected, problems)
    new = {*untouched, *(name for name in own if name not in given and _under(name, replaceable))}
    return {**{name: _outcome(name, given, new) for name in own}, **outcomes}


def load_whole(model: nn.Module, given: Mapping[str, Tensor], *, assign: bool = False) -> Any:  # noqa: ANN401 - torch's own
    """Load as torch does, not strictly, and with a note of the version where torch looks: torchvision's MNASNet asks.

    Args:
        model: What to load into.
        given: Tensor name to tensor.
        assign: Make them the model's own.
    """
    noted: Any = OrderedDict(given)
    noted._metadata = {"": {"version": model._version}}  # noqa: SLF001 - torch has no public name for either
    return _whole_load(model, noted, strict=False, assign=assign)


def _copy(model: nn.Module, given: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    result = load_whole(model, given)
    return list(result.missing_keys), list(result.unexpected_keys)


def _assign(model: nn.Module, given: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load without copying, and without what torch's own ``assign=True`` changes: dtypes, devices and tied weights."""
    names_of: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    tied = {name for _, *others in names_of.values() for name in others}
    ready = {name: _settled(tensor, own[name]) if name in own else tensor for name, tensor in given.items()}
    _part({name: tensor for name, tensor in ready.items() if name in own and name not in tied}, ready)
    result = load_whole(model, ready, assign=True)
    for first, *others in names_of.values():
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, model.get_parameter(first))
    return list(result.missing_keys), list(result.unexpected_keys)


def _part(untied: Mapping[str, Tensor], ready: dict[str, Tensor]) -> None:
    """Give each of these names memory of its own: a file may hold one tensor under two names that the model parts."""
    taken: set[int] = set()
    for name, tensor in untied.items():
        if tensor.numel() and tensor.data_ptr() in taken:
            ready[name] = tensor.clone()
        taken.add(tensor.data_ptr())


def _settled(tensor: Tensor, own: Tensor) -> Tensor:
    """A tensor of a file as the model wants it: its dtype, its device, and aligned as the kernels expect."""
    tensor = tensor.to(device=own.device, dtype=own.dtype)
    aligned = tensor.data_ptr() % _ALIGNMENT == 0 if tensor.device.type == "cpu" else True
    # misaligned input makes some kernels take another path, and the output differ in the last digit
    return tensor if aligned and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _outcome(name: str, given: Mapping[str, Tensor], new: Collection[str]) -> Outcome:
    if name in given:
        return "loaded"
    if name in new:
        return "initialised"
    # what is neither given nor missing was made by the module itself from an older spelling of its tensors
    return "defaulted" if name.endswith(_COUNTER) else "adapted"


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether one of these globs fits a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _under(name: str, paths: Collection[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def mismatch(
    model: nn.Module,
    source: str,
    missing: list[str],
    unexpected: list[str],
    misshaped: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]],
) -> LoadMismatch:
    """What does not fit, as an error."""
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_few(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({_few(unexpected)})")
    if misshaped:
        shown = [f"{name} {list(got)} instead of {list(want)}" for name, (want, got) in misshaped.items()]
        parts.append(f"{len(misshaped)} of another shape ({_few(shown)})")
    return LoadMismatch(
        f"{source} does not fit this {type(model).__name__}",
        expected="every tensor of the model, and no other; only those of a replaced head may differ",
        got="; ".join(parts),
        cause="the file belongs to another architecture, or to another version of this one",
        hint="zoo info NAME shows which weights belong to a model",
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        misshaped=misshaped,
    )


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
