"""Loading the part of a checkpoint that fits, by name or by order, with an account of all the rest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zoo_core.errors import LoadMismatch, NotSupported, UnknownPart, UsageError, ZooWarning
from zoo_core.surgery.adapters import kept_aside, plain_name, plain_names
from zoo_core.surgery.distributed import refuse_sharded
from zoo_core.surgery.editing import editing
from zoo_core.surgery.load_state_dict import load_whole, warn_of_nonfinite
from zoo_core.surgery.metadata import anatomy_of, is_known, metadata_of, unwrap
from zoo_core.surgery.receipt import Outcome, Receipt
from zoo_core.surgery.select import select
from zoo_core.surgery.structure import under
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.paths import expand
from zoo_core.weights import obtain_file
from zoo_core.weights.checkpoint.candidates import candidates
from zoo_core.weights.checkpoint.choose import Choice, choose, likeliest_candidate
from zoo_core.weights.checkpoint.names import without_wrappers
from zoo_core.weights.checkpoint.other_weights import warn_of_others
from zoo_core.weights.checkpoint.read import open_checkpoint
from zoo_core.weights.checkpoint.unsupported import loss_of_values, no_candidate, refuse_odd_tensors

State = Mapping[str, Tensor]

_COUNTER = "num_batches_tracked"
_ENOUGH = 0.5
"""Share of the model's tensors below which a load warns."""
_PREFIXES = 20
"""How many prefixes are tried, the shortest first, to say what would fit better."""
_ROLES = {"weight", "bias", "running_mean", "running_var", _COUNTER}
"""Last parts of names that say what a tensor is for; a pair in which they contradict each other is none."""


@dataclass
class _Match:
    """Which tensor of the model loads from which of the checkpoint, and what to say about those that do not."""

    pairs: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@strict_arguments
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
        state_or_path: A state dict, a checkpoint around one, or the path of a file or folder with either. Averaged
            weights (EMA) are taken where there are some.
        match: ``"name"`` loads tensors that have one name and one shape on both sides, where a prefix before all names
            of the model, such as ``"module."`` or ``"encoder."``, does not count. ``"order"`` is for the same
            architecture under other names: it goes through both sides in step, and pairs tensors as long as shapes and
            roles, weight or bias say, agree. Where they no longer do it stops, and the receipt says where. Complex
            numbers for real ones, integers for fractions and sparse or quantized tensors are kept out by both.
        skip: What to leave out: parts of the model, in the language of :func:`freeze`, or paths and patterns of names
            in the file. None skips nothing by name, and the head by order; ``()`` skips nothing.

    Returns:
        The receipt of this load: ``loaded``, ``kept`` and ``ignored`` tensors, with the reasons in its ``notes``. The
        model's own receipt, ``zoo.receipt(model)``, is brought up to date too.

    Warns:
        ZooWarning: Less than half of the tensors of the model, of those that are not skipped, were loaded; the warning
            says what would fit better. Or several sets of weights fit alike, or numbers are nan or infinite.

    Raises:
        LoadMismatch: Nothing at all fits, or a tensor cannot be copied. The model is as it was.
        Unreadable: There are no tensors in what was given.
        UnknownPart: An entry of ``skip`` is neither in the model nor in the file.
        UsageError: ``match`` is neither of the two.
        NotSupported: The model is on the meta device, or sharded.

    Example:
        >>> import zoo_core as zoo
        >>> state = zoo.get("tiny/glyphnet").state_dict()
        >>> receipt = zoo.load_partial(zoo.get("tiny/glyphnet", weights=None, num_classes=9), state)
        >>> receipt.counts, receipt.notes["fc.bias"]
        ({'loaded': 54, 'kept': 2}, 'of shape [114] in what was given, [9] in the model')
    """
    if match not in {"name", "order"}:
        raise UsageError(f"match cannot be {match!r}", expected="'name' or 'order'")
    refuse_sharded(model, "load_partial")
    bare = unwrap(model)
    own: State = bare.state_dict()
    if any(getattr(tensor, "is_meta", False) for tensor in own.values()):
        raise NotSupported(
            f"this {type(bare).__name__} is on the meta device, where tensors have no values to load",
            done="nothing was loaded",
            hint='model.to_empty(device="cpu") gives it memory, and zoo.get(name, device="cpu") values as well',
        )
    content, source, path = _read(state_or_path)
    inside: Mapping[str, str] = {}
    if match == "name":
        choice, inside = _by_prefix(content, bare, source)
    else:
        choice = Choice(likeliest_candidate(content, source))
    state = choice.state
    if skip is None:
        skip = ("head",) if match == "order" and anatomy_of(model).heads else ()
    entries = (skip,) if isinstance(skip, str) else tuple(skip)
    left_out, left_behind = _skipped(model, state, inside, entries)
    candidates = {name: tensor for name, tensor in own.items() if name not in left_out}
    offered = {name: tensor for name, tensor in state.items() if name not in left_behind}
    offered = {name: _shaped(tensor, candidates.get(name)) for name, tensor in offered.items()}
    result = (
        _match_by_name(candidates, offered, source)
        if match == "name"
        else _match_by_order(candidates, offered, source, dict(bare.named_parameters()))
    )
    if not result.pairs:
        raise _nothing_fits(bare, own, state, source, match, result)
    with editing(model, "load_partial") as edit:
        _load_part(bare, own, {name: offered[theirs] for name, theirs in result.pairs.items()})
        edit.outcomes.update(dict.fromkeys(result.pairs, "loaded"))
        places = {name: inside.get(theirs, theirs) for name, theirs in result.pairs.items()}
        edit.notes.update({name: f"{choice.prefix}{place} of {source}" for name, place in places.items()})
    result.notes.update(dict.fromkeys((name for name in own if name in left_out), "skipped"))
    receipt = _receipt(model, own, state, result, left_behind)
    strength = "local" if path else "none"
    receipt = replace(receipt, source=source, path=path, strength=strength, taken=choice.words)
    _warn_of_few(candidates, offered, result, source, match)
    warn_of_nonfinite(bare, result.pairs, source, stacklevel=3)  # past strict_arguments
    return receipt


def _load_part(model: nn.Module, own: State, given: State) -> None:
    """Load the part of a checkpoint that fits or, where one tensor of it fails, none."""
    before = {name: own[name].detach().clone() for name in given}
    try:
        load_whole(model, given)
    except Exception as error:
        load_whole(model, before)
        raise LoadMismatch(
            f"a tensor cannot be copied into this {type(model).__name__}",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()}",
            done="nothing was loaded: every tensor is as it was",
            hint="skip=... leaves tensors out, by the names that the model has for them",
        ) from error


def _read(state_or_path: object) -> tuple[object, str, str | None]:
    """What a checkpoint to load in part holds, what to call where it is from, and its path if it is a file."""
    if isinstance(state_or_path, str | os.PathLike):
        checkpoint = open_checkpoint(cast("str | os.PathLike[str]", state_or_path))
        file = obtain_file(checkpoint.path)
        warn_of_others(expand(state_or_path), checkpoint.path, stacklevel=4)  # past strict_arguments
        return checkpoint.content, file.path.name, str(file.path)
    if isinstance(state_or_path, nn.Module):
        raise UsageError("a module is not a state dict", hint="give its state_dict()")
    return state_or_path, "what was given", None


def _by_prefix(content: object, model: nn.Module, source: str) -> tuple[Choice, Mapping[str, str]]:
    """What loads by name: the part of a checkpoint that fits most, under the model's names, and all beside it.

    Also, for each tensor of the model, its name without what compiled layers around it add, and adapters where the
    checkpoint is of a model without any.
    """
    every = candidates(content)
    if not every:
        raise no_candidate(content, source)
    is_adapted = any(plain_name(name) != name for each in every for name in each.tensors)
    inside = _inside_wrappers(model, is_adapted=is_adapted)
    own = {inside[name]: tuple(each.shape) for name, each in model.state_dict().items() if hasattr(each, "shape")}
    choice = choose(every, own, part=True, children=[name for name, _ in model.named_children()])
    refuse_odd_tensors(choice.state, source)
    if choice.rivals:
        warnings.warn(
            f"{source} holds several sets of weights that fit alike, and what is under {choice.label!r} was taken, not "
            f"{' or '.join(map(repr, choice.rivals))}; give a state dict with only one of them to choose",
            ZooWarning,
            stacklevel=4,  # past strict_arguments
        )
    beside: dict[str, Any] = {name: each for name, each in choice.beside.items() if isinstance(each, torch.Tensor)}
    names = {plain: name for name, plain in inside.items()}
    state = {**beside, **{names.get(name, name): each for name, each in choice.state.items()}}
    return replace(choice, state=state), inside


def _inside_wrappers(model: nn.Module, *, is_adapted: bool) -> dict[str, str]:
    """For each tensor of a model to load in part, its name without what compiled layers and adapters around it add."""
    own, aside = model.state_dict(), kept_aside(model)
    plain = {} if is_adapted else plain_names(model, (name for name in own if name not in aside))
    return {name: short for short, name in without_wrappers({plain.get(name, name): name for name in own}).items()}


def _skipped(
    model: nn.Module, state: State, inside: Mapping[str, str], entries: Sequence[str]
) -> tuple[set[str], set[str]]:
    """Names in the model, and names in the checkpoint, that a partial load leaves out."""
    in_model: set[str] = set()
    in_file: set[str] = set()
    for entry in entries:
        names = {name: (name, inside.get(name, name)) for name in state}
        theirs = {
            name for name, both in names.items() if any(under(each, entry) or fnmatchcase(each, entry) for each in both)
        }
        try:
            in_model |= select(model, [entry])
        except UnknownPart:
            if not theirs:
                raise
        in_file |= theirs
    return in_model, in_file


def _match_by_name(own: State, given: State, source: str) -> _Match:
    """Tensors of model and checkpoint paired by name, as far as they fit, with a note on each that does not."""
    result = _Match()
    for name, tensor in own.items():
        if name not in given:
            result.notes[name] = f"not in {source}"
        elif given[name].shape != tensor.shape:
            result.notes[name] = f"of shape {list(given[name].shape)} in {source}, {list(tensor.shape)} in the model"
        elif loss := loss_of_values(tensor, given[name]):
            result.notes[name] = f"{loss} in {source}"
        else:
            result.pairs[name] = name
    return result


def _shaped(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A tensor that loads in part: where it is a single number, in the shape that the model has for it."""
    is_single = isinstance(own, torch.Tensor) and tensor.numel() == own.numel() == 1
    return tensor.reshape(own.shape) if own is not None and is_single else tensor


def _match_by_order(own: State, given: State, source: str, parameters: Collection[str]) -> _Match:
    """Match what fits in part by order; parameters alone where more of these fit, as averages lack buffers."""
    whole = _match_in_step(own, given, source)
    alone = _match_in_step({name: each for name, each in own.items() if name in parameters}, given, source)
    if len(alone.pairs) <= len(whole.pairs):
        return whole
    buffers = (name for name in own if name not in parameters)
    alone.notes.update(dict.fromkeys(buffers, f"a buffer, and {source} has parameters alone"))
    return alone


def _match_in_step(own: State, given: State, source: str) -> _Match:
    """Tensors of model and file paired in step, as far as they fit; counters of norms, which some lack, follow them."""
    result = _Match()
    ours = [name for name in own if not _is_counter(name)]
    theirs = [name for name in given if not _is_counter(name)]
    for place, (name, other) in enumerate(zip_longest(ours, theirs)):
        if name is None:
            break
        if other is None or not _fits_in_order(name, own[name], other, given[other]):
            was = f"{other} of shape {list(given[other].shape)}" if other else f"the end of {source}"
            result.notes[name] = f"the order parts here: against {was} stood one of shape {list(own[name].shape)}"
            result.notes.update(dict.fromkeys(ours[place + 1 :], f"comes after {name}, where the order parts"))
            break
        if loss := loss_of_values(own[name], given[other]):
            result.notes[name] = f"{loss} in {source}"
            continue
        result.pairs[name] = other
    for name in filter(_is_counter, own):
        norm = result.pairs.get(f"{name.removesuffix(_COUNTER)}running_var", "")
        counter = f"{norm.removesuffix('running_var')}{_COUNTER}"
        if norm and counter in given:
            result.pairs[name] = counter
        else:
            result.notes[name] = f"there is no such counter in {source}"
    result.notes.update({name: f"from {other}" for name, other in result.pairs.items() if name != other})
    return result


def _is_counter(name: str) -> bool:
    """Whether a tensor is a norm's counter of batches, which is not loaded by order, but with its norm."""
    return name.rpartition(".")[2] == _COUNTER


def _fits_in_order(name: str, tensor: Tensor, other: str, given: Tensor) -> bool:
    """Whether a tensor of a checkpoint fits the model's beside it in order: of one shape, and no weight for a bias."""
    roles = {name.rpartition(".")[2], other.rpartition(".")[2]}
    return tensor.shape == given.shape and (len(roles) == 1 or not roles <= _ROLES)


def _receipt(model: nn.Module, own: State, state: State, found: _Match, left_behind: set[str]) -> Receipt:
    """The receipt of a partial load: which tensors were loaded, kept and ignored, with a note on each that needs it."""
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
    title = metadata_of(model).receipt.model if is_known(model) else type(unwrap(model)).__name__
    return Receipt(title, tensors=tensors, notes=notes)


def _warn_of_few(own: State, given: State, found: _Match, source: str, match: str) -> None:
    """Say so where a partial load filled less than half of the model, and what would fit better."""
    if len(found.pairs) >= _ENOUGH * len(own):
        return
    better = _better_match(own, given, source, match, len(found.pairs))
    warnings.warn(
        f"{len(found.pairs)} of {len(own)} tensors of the model were loaded from {source} by {match}"
        + (f"; {better}" if better else "; the notes of the receipt say why not the others"),
        ZooWarning,
        stacklevel=4,  # past strict_arguments
    )


def _better_match(own: State, given: State, source: str, match: str, least: int) -> str:
    """How ``load_partial`` would pair more tensors than it did, by another prefix or match; empty if by none."""
    inside = {name[: end + 1] for name in own for end, letter in enumerate(name) if letter == "."}
    renamed = {
        f"put the prefix {prefix!r} before the names in it": {f"{prefix}{name}": each for name, each in given.items()}
        for prefix in sorted(inside, key=len)[:_PREFIXES]
    }
    counts = {advice: len(_match_by_name(own, state, source).pairs) for advice, state in renamed.items()}
    if match == "order":
        counts['match="name" pairs them by name'] = len(_match_by_name(own, given, source).pairs)
    else:
        counts['match="order" pairs tensors by order and shape'] = len(_match_in_step(own, given, source).pairs)
    best = max(counts, key=counts.__getitem__)
    return f"{best}: {counts[best]} of {len(own)} then fit" if counts[best] > least else ""


def _nothing_fits(model: nn.Module, own: State, state: State, source: str, match: str, found: _Match) -> LoadMismatch:
    """The error of a partial load in which no tensor of the checkpoint fits."""
    other = 'match="order" pairs tensors by order and shape' if match == "name" else 'match="name" pairs them by name'
    hint = _better_match(own, state, source, match, 0) or other
    same = next((f"{name} is {found.notes[name]}" for name in own if name in state and name in found.notes), None)
    cause = "a safetensors file keeps tensors by name and not in the order of layers" if match == "order" else same
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


def _first(state: State) -> str:
    """The first few tensors of a model or a checkpoint, for the error of a partial load in which nothing fits."""
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(state.items())[:3])
