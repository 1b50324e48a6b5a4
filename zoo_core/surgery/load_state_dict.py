"""Putting a state dict into a model, with an account of every tensor, packed integers too."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import LoadMismatch, Unreadable, ZooWarning
from zoo_core.surgery.structure import under
from zoo_core.text import first_few

if TYPE_CHECKING:
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
    """Load every tensor of the state dict ``state`` into ``model``, or say exactly which ones do not fit.

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
    for name in [name for name in given if name not in own and _matches(name, ignore)]:
        del given[name]
        outcomes[name] = "ignored"
    misshaped = {name for name, tensor in given.items() if name in own and own[name].shape != tensor.shape}
    for name in [name for name in misshaped if _is_replaceable(name, replaceable)]:
        del given[name]
        misshaped.discard(name)
    problems = {name: (tuple(own[name].shape), tuple(given[name].shape)) for name in sorted(misshaped)}
    fitting = {name: tensor for name, tensor in given.items() if name not in problems}
    result = _assign(model, fitting, own) if assign else load_whole(model, fitting)
    untouched = {name for name in result.missing_keys if _matches(name, absent) and name not in problems}
    known = {*problems, *untouched}
    missing = [name for name in result.missing_keys if name not in known and not _is_replaceable(name, replaceable)]
    unexpected = [name for name in result.unexpected_keys if not _is_replaceable(name, replaceable)]
    if missing or unexpected or problems:
        raise _mismatch(model, source, missing, unexpected, problems)
    new = {*untouched, *(name for name in own if name not in given and _is_replaceable(name, replaceable))}
    return {**{name: _how_filled(name, given, new) for name in own}, **outcomes}


def warn_of_nonfinite(model: nn.Module, names: Collection[str], source: str, *, stacklevel: int) -> None:
    """Warn of tensors that were loaded with nan or infinities: such a model gives nan, whatever it is shown.

    Parameters and the statistics of norms are looked at; other buffers, such as a mask, may be infinite.

    Args:
        model: It has values.
        names: Tensors that came from the file.
        source: What to call the file.
        stacklevel: Of the warning, counted from here.

    Warns:
        ZooWarning: There are such tensors; they are named.
    """
    statistics = (each for each in model.named_buffers() if each[0].endswith(("running_mean", "running_var")))
    looked_at = [each for each in (*model.named_parameters(), *statistics) if each[0] in names]
    bad = [name for name, tensor in looked_at if not _is_finite(tensor.detach())]
    if bad:
        warnings.warn(
            f"{len(bad)} of the {len(looked_at)} tensors from {source} hold nan or infinities: {first_few(bad)}. The "
            "training that wrote them has diverged, or a smaller dtype could not hold their numbers: take an earlier "
            "checkpoint, or one that was not converted",
            ZooWarning,
            stacklevel=stacklevel + 1,
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether a state dict's tensor is finite. A sum is three times as fast as a look at each, and may overflow."""
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return True
    try:
        return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())
    except (RuntimeError, NotImplementedError):  # numbers of eight bits or fewer, which have no such kernels
        return bool(tensor.float().isfinite().all())


def load_whole(model: nn.Module, given: Mapping[str, Tensor], *, assign: bool = False) -> Any:
    """Call torch's ``load_state_dict`` with ``strict=False`` and the version that MNASNet looks for in a state dict."""
    noted: Any = OrderedDict(given)
    noted._metadata = {"": {"version": model._version}}  # noqa: SLF001 - torch has no public name for either
    return _whole_load(model, noted, strict=False, assign=assign)


def _assign(model: nn.Module, given: dict[str, Tensor], own: Mapping[str, Tensor]) -> Any:
    """Load a state dict uncopied, without what ``assign=True`` of torch changes: dtypes, devices and tied weights."""
    names_of: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    tied = {name for _, *others in names_of.values() for name in others}
    ready = {name: _settled(tensor, own[name]) if name in own else tensor for name, tensor in given.items()}
    _unshare_memory({name: tensor for name, tensor in ready.items() if name in own and name not in tied}, ready)
    result = load_whole(model, ready, assign=True)
    for first, *others in names_of.values():
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, model.get_parameter(first))
    return result


def _unshare_memory(untied: Mapping[str, Tensor], ready: dict[str, Tensor]) -> None:
    """Give tensors of a state dict memory of their own: a file may hold one under two names that the model parts."""
    taken: set[int] = set()
    for name, tensor in untied.items():
        if tensor.numel() and tensor.data_ptr() in taken:
            ready[name] = tensor.clone()
        taken.add(tensor.data_ptr())


def _settled(tensor: Tensor, own: Tensor) -> Tensor:
    """A tensor of a state dict put as the model has it: in its dtype, on its device, and aligned as kernels expect."""
    tensor = tensor.to(device=own.device, dtype=own.dtype)
    aligned = tensor.data_ptr() % _ALIGNMENT == 0 if tensor.device.type == "cpu" else True
    # misaligned input makes some kernels take another path, and the output differ in the last digit
    return tensor if aligned and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _how_filled(name: str, given: Mapping[str, Tensor], new: Collection[str]) -> Outcome:
    """How ``load_state`` has filled a tensor: from the state dict, by the module itself, or not at all."""
    if name in given:
        return "loaded"
    if name in new:
        return "initialized"
    # what is neither given nor missing was made by the module itself from an older spelling of its tensors
    return "defaulted" if name.endswith(_COUNTER) else "adapted"


def _matches(name: str, patterns: Collection[str]) -> bool:
    """Whether one of these globs fits the name of a tensor that a state dict may lack, or have beside the model's."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_replaceable(name: str, paths: Collection[str]) -> bool:
    """Whether a state dict may lack a tensor or have another: it is in one of the modules that may be replaced."""
    return any(under(name, path) for path in paths)


def _mismatch(
    model: nn.Module,
    source: str,
    missing: list[str],
    unexpected: list[str],
    misshaped: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]],
) -> LoadMismatch:
    """The error for a state dict that does not fit its model: the names missing, unexpected, or of another shape."""
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({first_few(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({first_few(unexpected)})")
    if misshaped:
        shown = [f"{name} {list(got)} instead of {list(want)}" for name, (want, got) in misshaped.items()]
        parts.append(f"{len(misshaped)} of another shape ({first_few(shown)})")
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


def is_packed(model: nn.Module) -> bool:
    """Whether ``load_state_dict`` takes more than plain tensors for ``model``, as packed integers are.

    Example:
        >>> is_packed(torch.nn.Linear(2, 2))
        False
    """
    if not any(_saves_its_own_way(module) for module in model.modules()):
        return False
    return any(not isinstance(value, Tensor) or value.is_quantized for value in model.state_dict().values())


def _saves_its_own_way(module: torch.nn.Module) -> bool:
    """Whether ``load_state_dict`` may take more than parameters and buffers; making a state dict to see is slow."""
    kind, plain = type(module), torch.nn.Module
    ways = ("_save_to_state_dict", "get_extra_state")  # what torch.nn.Module.state_dict calls
    return any(getattr(kind, way) is not getattr(plain, way) for way in ways)


def packed_state_in(content: object, source: Path) -> Mapping[str, Any]:
    """The state dict of packed integers in a file that was read, to put into a quantised model; with torch's versions.

    Raises:
        Unreadable: There is none.
    """
    for result in (
        (content, *(content.get(key) for key in ("state_dict", "model"))) if isinstance(content, dict) else ()
    ):
        if (
            isinstance(result, dict)
            and result
            and all(isinstance(key, str) for key in result)
            and not any(isinstance(value, Mapping) for value in result.values())  # a wrapper around one
        ):
            return result
    raise Unreadable(
        f"{source} holds no state of a quantised model",
        expected="tensors and packed parameters by name, as state_dict() of such a model gives them",
        got=f"a {type(content).__name__}",
        path=source,
    )


def load_packed(
    model: nn.Module, state: Mapping[str, Any], *, ignore: Collection[str] = (), source: str = "the file"
) -> dict[str, Outcome]:
    """Load a state dict of packed parameters into a quantized model, all of it, or say exactly what does not fit.

    Returns:
        Name to what happened to it.

    Raises:
        LoadMismatch: Something is missing, unexpected or of another shape or kind; the model may be loaded in part.
    """
    own = model.state_dict()
    ignored = [name for name in state if name not in own and _matches(name, ignore)]
    given: Any = OrderedDict((name, value) for name, value in state.items() if name not in ignored)
    both = {name: (_shape_and_packing(own[name]), _shape_and_packing(given[name])) for name in own if name in given}
    misshaped = {name: kinds for name, kinds in both.items() if kinds[0] != kinds[1]}
    if misshaped:
        raise _mismatch(model, source, [], [], misshaped)
    given._metadata = getattr(state, "_metadata", own._metadata)  # type: ignore[attr-defined]  # noqa: SLF001 - torch has no public name for it
    try:
        result = torch.nn.Module.load_state_dict(model, given, strict=False)
    except (RuntimeError, AttributeError, TypeError, KeyError) as error:  # of a layer that cannot pack such values
        raise LoadMismatch(
            f"{source} does not fit this {type(model).__name__}", got=f"{type(error).__name__}: {error}"
        ) from error
    if result.missing_keys or result.unexpected_keys:
        raise _mismatch(model, source, result.missing_keys, result.unexpected_keys, {})
    outcomes: dict[str, Outcome] = {name: "loaded" if name in given else "adapted" for name in own}
    return {**outcomes, **dict.fromkeys(ignored, "ignored")}


def _shape_and_packing(value: object) -> tuple[Any, ...]:
    """What must be alike of two values of a state dict for one to replace the other: shapes, and whether quantised."""
    if isinstance(value, Tensor):
        # a scale is [] in one version of torch and [1] in another
        shape = () if value.numel() == 1 else tuple(value.shape)
        return (*shape, *(("quantised",) if value.is_quantized else ()))
    if isinstance(value, tuple):
        return tuple(_shape_and_packing(each) for each in value)
    return (value,)
