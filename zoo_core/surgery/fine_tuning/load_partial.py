"""Loading the part of a checkpoint that fits, by name or by order, with an account of all the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, cast

from torch import nn

from zoo_core.errors import LoadMismatch, UnknownPart, UsageError
from zoo_core.surgery.loading import load_whole
from zoo_core.surgery.metadata import anatomy_of, attach, is_known, knowledge_of, unwrap
from zoo_core.surgery.receipt import Receipt
from zoo_core.surgery.select import select
from zoo_core.surgery.sharded import before_sharding
from zoo_core.surgery.structure import under
from zoo_core.utils.arguments import strict_arguments
from zoo_core.weights import obtain_file, read_state_dict
from zoo_core.weights.formats.read import state_dict_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from zoo_core.surgery.receipt import Outcome

    State = Mapping[str, Tensor]

_COUNTER = "num_batches_tracked"
_ROLES = {"weight", "bias", "running_mean", "running_var", _COUNTER}
"""Last parts of names that say what a tensor is for; a pair in which they contradict each other is none."""


@dataclass
class _Match:
    """Which tensor of the model gets which of the file, and what is to be said about the others."""

    pairs: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@strict_arguments
@before_sharding
def load_partial(
    model: nn.Module,
    state_or_path: Mapping[str, object] | str | os.PathLike[str],
    *,
    match: Literal["name", "order"] = "name",
    skip: str | Sequence[str] | None = None,
) -> Receipt:
    """Load what fits of a checkpoint into ``model``, and say of every tensor on both sides what became of it.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place. Any other module will do when ``skip`` names
            nothing of it and tensors are matched by name.
        state_or_path: A state dict, a checkpoint around one, or the path of a file with either.
        match: ``"name"`` loads tensors that have one name and one shape on both sides. ``"order"`` is for the same
            architecture under other names: it goes through both sides in step, and pairs tensors as long as shapes and
            roles, weight or bias say, agree. Where they no longer do it stops, and the receipt says where.
        skip: What to leave out: parts of the model, in the language of :func:`freeze`, or paths and patterns of names
            in the file. None skips nothing by name, and the head by order; ``()`` skips nothing.

    Returns:
        The receipt of this load: ``loaded``, ``kept`` and ``ignored`` tensors, with the reasons in its ``notes``. The
        model's own receipt, ``zoo.receipt(model)``, is brought up to date too.

    Raises:
        LoadMismatch: Nothing at all fits. The model is as it was.
        Unreadable: There are no tensors in what was given.
        UnknownPart: An entry of ``skip`` is neither in the model nor in the file.
        UsageError: ``match`` is neither of the two.

    Example:
        >>> import zoo_core as zoo
        >>> state = zoo.get("tiny/glyphnet").state_dict()
        >>> receipt = zoo.load_partial(zoo.get("tiny/glyphnet", weights=None, num_classes=9), state)
        >>> receipt.counts, receipt.notes["fc.bias"]
        ({'loaded': 54, 'kept': 2}, 'of shape [114] in what was given, [9] in the model')
    """
    if match not in {"name", "order"}:
        raise UsageError(f"match cannot be {match!r}", expected="'name' or 'order'")
    state, source, path = _read(state_or_path)
    bare = unwrap(model)
    own: State = bare.state_dict()
    entries = (skip,) if isinstance(skip, str) else _default_skip(model, match) if skip is None else tuple(skip)
    left_out, left_behind = _skipped(model, state, entries)
    candidates = {name: tensor for name, tensor in own.items() if name not in left_out}
    offered = {name: tensor for name, tensor in state.items() if name not in left_behind}
    found = _by_name(candidates, offered, source) if match == "name" else _by_order(candidates, offered, source)
    if not found.pairs:
        raise _nothing_fits(bare, own, state, source, match)
    load_whole(bare, {name: state[theirs] for name, theirs in found.pairs.items()})
    found.notes.update(dict.fromkeys((name for name in own if name in left_out), "skipped"))
    receipt = _receipt(model, own, state, found, left_behind)
    receipt = replace(receipt, source=source, path=path, strength="local" if path else "none")
    _record(bare, found, source)
    return receipt


def _read(state_or_path: object) -> tuple[State, str, str | None]:
    """The tensors, what to call where they are from, and the path of the file if there is one."""
    if isinstance(state_or_path, str | os.PathLike):
        file = obtain_file(cast("str | os.PathLike[str]", state_or_path))
        return read_state_dict(file.path), file.path.name, str(file.path)
    if isinstance(state_or_path, nn.Module):
        raise UsageError("a module is not a state dict", hint="give its state_dict()")
    return state_dict_in(state_or_path, "what was given"), "what was given", None


def _default_skip(model: nn.Module, match: str) -> tuple[str, ...]:
    return ("head",) if match == "order" and anatomy_of(model).heads else ()


def _skipped(model: nn.Module, state: State, entries: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names in the model, and names in the file, that are left out."""
    in_model: set[str] = set()
    in_file: set[str] = set()
    for entry in entries:
        theirs = {name for name in state if under(name, entry) or fnmatchcase(name, entry)}
        try:
            in_model |= select(model, [entry])
        except UnknownPart:
            if not theirs:
                raise
        in_file |= theirs
    return in_model, in_file


def _by_name(own: State, given: State, source: str) -> _Match:
    found = _Match()
    for name, tensor in own.items():
        if name not in given:
            found.notes[name] = f"not in {source}"
        elif given[name].shape != tensor.shape:
            shapes = f"of shape {list(given[name].shape)} in {source}, {list(tensor.shape)} in the model"
            found.notes[name] = shapes
        else:
            found.pairs[name] = name
    return found


def _by_order(own: State, given: State, source: str) -> _Match:
    found = _Match()
    if not (_has_counters(own) and _has_counters(given)):
        found.notes = {name: f"there are no counters in {source}" for name in own if name.endswith(_COUNTER)}
    ours = [name for name in own if name not in found.notes]
    theirs = [name for name in given if not (found.notes and name.endswith(_COUNTER))]
    for place, (name, other) in enumerate(zip_longest(ours, theirs)):
        if name is None:
            break
        if other is None or not _agree(name, own[name], other, given[other]):
            was = f"{other} of shape {list(given[other].shape)}" if other else f"the end of {source}"
            found.notes[name] = f"the order parts here: against {was} stood one of shape {list(own[name].shape)}"
            found.notes.update(dict.fromkeys(ours[place + 1 :], f"comes after {name}, where the order parts"))
            break
        found.pairs[name] = other
        if name != other:
            found.notes[name] = f"from {other}"
    return found


def _has_counters(state: State) -> bool:
    return any(name.endswith(_COUNTER) for name in state)


def _agree(name: str, tensor: Tensor, other: str, given: Tensor) -> bool:
    roles = {name.rpartition(".")[2], other.rpartition(".")[2]}
    return tensor.shape == given.shape and (len(roles) == 1 or not roles <= _ROLES)


def _receipt(model: nn.Module, own: State, state: State, found: _Match, left_behind: set[str]) -> Receipt:
    tensors: dict[str, Outcome] = {name: "loaded" if name in found.pairs else "kept" for name in own}
    notes = dict(found.notes)
    used = set(found.pairs.values())
    for name in state:
        if name in used:
            continue
        why = "skipped" if name in left_behind else "found no place"
        if name not in own:
            tensors[name], notes[name] = "ignored", why
        elif name in found.pairs:
            notes[name] = f"{notes.get(name, 'loaded')}; its namesake {why}"
    title = knowledge_of(model).receipt.model if is_known(model) else type(unwrap(model)).__name__
    return Receipt(title, tensors=tensors, notes=notes)


def _record(model: nn.Module, found: _Match, source: str) -> None:
    """Keep the model's own receipt true: what is loaded now is no longer what it was."""
    if not is_known(model):
        return
    known = knowledge_of(model)
    loaded: dict[str, Outcome] = dict.fromkeys(found.pairs, "loaded")
    notes = {name: f"{theirs} of {source}" for name, theirs in found.pairs.items()}
    receipt = known.receipt
    new = replace(receipt, tensors={**receipt.tensors, **loaded}, notes={**receipt.notes, **notes})
    attach(model, replace(known, receipt=new))


def _nothing_fits(model: nn.Module, own: State, state: State, source: str, match: str) -> LoadMismatch:
    prefixes = {f"{name.partition('.')[0]}." for name in state if "." in name}
    fits = {prefix: sum(name.removeprefix(prefix) in own for name in state) for prefix in prefixes}
    best = max(fits, key=fits.__getitem__, default="")
    hint = 'match="order" pairs tensors by order and shape' if match == "name" else 'match="name" pairs them by name'
    if match == "name" and fits.get(best, 0):
        hint = f"take the prefix {best!r} off the names in it: {fits[best]} of them then fit"
    cause = "a safetensors file keeps tensors by name and not in the order of layers" if match == "order" else None
    return LoadMismatch(
        f"nothing in {source} fits this {type(model).__name__} by {match}",
        expected=f"tensors such as {_first(own)}",
        got=f"tensors such as {_first(state)}",
        done="nothing was loaded",
        cause=cause,
        hint=hint,
        missing=tuple(own),
        unexpected=tuple(state),
        misshaped={},
    )


def _first(state: State, count: int = 3) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(state.items())[:count])
