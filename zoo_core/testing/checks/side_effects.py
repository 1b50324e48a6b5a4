"""The check that building a model and asking for its anatomy change neither the model nor the process."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from zoo_core.build.skip_init import without_values
from zoo_core.contract.anatomy import Anatomy
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import metadata_of
from zoo_core.surgery.structure import under
from zoo_core.testing.files import files_left, temporary_folder
from zoo_core.testing.findings import require
from zoo_core.testing.outputs import same
from zoo_core.testing.process import printed, random_states, started_from, watched
from zoo_core.testing.under_test import built_with, by_shapes, model_under_test
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from zoo_core.contract.card import Card

_SEED = 20_261_128
"""One that no library sets."""
_PLAIN = (bool, int, float, str, type(None))
_looked_at: set[tuple[str, ...]] = set()
"""The families, and what builds their models, where it was looked for what stays in memory: that takes a while."""


def check_side_effects(card: Card) -> None:
    """Building a model and asking for its anatomy leave the process and the model as they were; a part of "builds".

    Each build is a model of its own, in train mode, that trains; the anatomy is the same each time it is requested;
    and neither leaves anything in memory.
    """
    model, member = model_under_test(card), current_zoo().member(card.family)
    anatomy = member.anatomy if member.family.anatomy is not None and card.name not in member.own else None
    fresh, changes = _build(card, model)
    _check_own_and_trains(card, model, fresh)
    if anatomy:
        _check_anatomy(card, model, fresh, anatomy)
    once = [each for each in built_with(model).changes if each not in changes]
    require(not once, f"{card.id}: building it for the first time changes {', '.join(once)} for the whole process")
    references = {name: weakref.ref(tensor) for name, tensor in _tensors(fresh)}
    del fresh
    if _is_first(card.family, card.build):
        _check_released(card, references)
    if anatomy and _is_first(card.family):
        _check_tensors_left(card, model, anatomy)


def _build(card: Card, model: nn.Module) -> tuple[nn.Module, list[str]]:
    """The model once more, as its library makes it; refused where building it has a side effect on the process."""
    with (
        seeded(_SEED),
        started_from(_SEED) as before,
        watched() as changes,
        printed() as text,
        files_left() as files,
        temporary_folder() as temporary,
    ):
        fresh = _fresh(card, metadata_of(model).options)
        seed, states = torch.initial_seed(), random_states()
    label = f"{card.id}: building it"
    require(not changes, f"{label} changes {', '.join(changes)} for the whole process")
    require(not text, f"{label} {', '.join(text)}; logging.getLogger(__name__) takes what it has to say")
    first = built_with(model)
    traces = [*dict.fromkeys([*temporary, *files, *first.files])]
    require(not traces, f"{label} {', '.join(traces)}")
    require(seed == _SEED, f"{label} seeds torch for the whole process")
    for name, now in states.items():
        drawn = now != before[name]
        require(not drawn or now != first.states.get(name), f"{label} seeds {name} for the whole process")
    return fresh, changes


def _fresh(card: Card, options: Mapping[str, object]) -> nn.Module:
    """A new model from its library's constructor, built to see what else that changes."""
    builder = current_zoo().member(card.family).builder(card)
    try:
        with without_values():
            return cast("nn.Module", builder(**options))
    except Exception:  # noqa: BLE001 - it needs the values, as construct finds too
        return cast("nn.Module", builder(**options))


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers of a model by name, which asking for its anatomy must not change."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_own_and_trains(card: Card, model: nn.Module, again: nn.Module) -> None:
    """Building again gives a model that shares no tensor with the one before, and trains, with no part frozen."""
    label = f"{card.id}: its constructor"
    shapes, now = ({name: each.shape for name, each in _tensors(one)} for one in (model, again))
    other = [name for name in {**shapes, **now} if shapes.get(name) != now.get(name)]
    require(not other, f"{label} returns another model the second time: {', '.join(other[:5])} differ")
    known = {id(tensor) for _, tensor in _tensors(model)}
    shared = [name for name, tensor in _tensors(again) if id(tensor) in known]
    require(not shared, f"{label} returns a model that shares {', '.join(shared[:5])} with the one before")
    require(again.training, f"{label} returns a model in eval mode; zoo.get gives models in train mode")
    before = {id(module) for module in model.modules()}  # an activation may be one module in all models of a library
    off = [path for path, module in again.named_modules() if not module.training and id(module) not in before]
    require(not off, f"{label} returns a model of which {', '.join(off[:5])} is in eval mode")
    trains = {name: parameter.requires_grad for name, parameter in again.named_parameters()}
    require(any(trains.values()) or not trains, f"{label} freezes every parameter")
    anatomy = metadata_of(model).anatomy
    parts = {f"stage {stage.name}": stage.modules for stage in anatomy.stages}
    for part, paths in {**parts, "the stem": anatomy.stem}.items():
        inside = [on for name, on in trains.items() if any(under(name, path) for path in paths)]
        require(any(inside) or not inside, f"{label} freezes every parameter of {part}")


def _is_first(*what: str) -> bool:
    """Whether this is looked at for the first time: what stays in memory is looked for once a family."""
    result = what not in _looked_at
    _looked_at.add(what)
    return result


def _check_released(card: Card, references: dict[str, weakref.ref[torch.Tensor]]) -> None:
    """A model that was built is gone from memory after its last use."""
    gc.collect()
    left = [name for name, reference in references.items() if reference() is not None]
    require(
        not left,
        f"{card.id}: a model that it built stays in memory after its last use: {', '.join(left[:5])}; the constructor "
        "or the anatomy keeps it",
    )


def _check_tensors_left(card: Card, model: nn.Module, anatomy: Callable[[nn.Module], Any]) -> None:
    """Asking for the anatomy leaves no tensor in memory."""
    before = _count_tensors()
    anatomy(model)
    more = _count_tensors() - before
    if more > 0:  # unless they only wait for the collector
        gc.collect()
        before = _count_tensors()
        anatomy(model)
        gc.collect()
        more = _count_tensors() - before
    require(more <= 0, f"{card.id}: asking for its anatomy leaves {more} tensor{'s'[: more > 1]} in memory each time")


def _count_tensors() -> int:
    """How many tensors the process has in memory."""
    return sum(type(each) is torch.Tensor or type(each) is nn.Parameter for each in gc.get_objects())


def _check_anatomy(card: Card, model: nn.Module, fresh: nn.Module, anatomy: Callable[[nn.Module], Any]) -> None:
    """Asking for the anatomy each time gives one answer, and changes neither the model nor the process."""
    label = f"{card.id}: asking for its anatomy"
    tensors = {} if by_shapes(card) else {name: tensor.clone() for name, tensor in _tensors(model)}
    before, states, drawn = dict(_marks(fresh)), random_states(), torch.get_rng_state()
    with watched() as changes, printed() as text, files_left() as files:
        anatomy(fresh)
        answers = [metadata_of(model).anatomy, anatomy(model), anatomy(model)]
    require(not changes, f"{label} changes {', '.join(changes)} for the whole process")
    require(not [*text, *files], f"{label} {', '.join([*text, *files])}")
    still = states == random_states() and torch.equal(drawn, torch.get_rng_state())
    require(still, f"{label} draws random numbers, or seeds a generator: its answer may be another each time")
    now, after = dict(_tensors(model)), dict(_marks(fresh))
    moved = [name for name, tensor in tensors.items() if name not in now or not same(now[name], tensor)]
    moved += [mark for mark in {**before, **after} if before.get(mark, ...) != after.get(mark, ...)]
    require(not moved, f"{label} changes {', '.join(moved[:5])}")
    for field in dataclasses.fields(Anatomy):
        values = [_comparable(getattr(answer, field.name)) for answer in answers]
        require(values[0] == values[1] == values[2], f"{label} twice gives two values of Anatomy.{field.name}")


def _marks(model: nn.Module) -> Iterable[tuple[str, object]]:
    """All of a model that a side effect would change: versions of parameters, bytes of buffers, modes, hooks, numbers.

    torch counts a write to the statistics of a norm in eval mode too, so that their values are compared.
    """
    for name, tensor in _tensors(model):
        is_buffer = not isinstance(tensor, nn.Parameter) and not tensor.is_meta
        # an optimizer would go on with a tensor that was replaced
        yield name, (id(tensor), _bytes(tensor) if is_buffer else tensor._version)  # noqa: SLF001 - torch's only way
    for path, module in model.named_modules():
        yield f"the module {path}", type(module)
        yield f"the mode of {path or 'the model'}", module.training
        values = vars(module)
        yield f"the hooks of {path or 'the model'}", [len(values[name]) for name in values if name.endswith("_hooks")]
        plain = {name: value for name, value in values.items() if type(value) in _PLAIN and name != "training"}
        yield from ((f"the attribute {path}{'.' if path else ''}{name}", value) for name, value in plain.items())
    for name, parameter in model.named_parameters():
        yield f"whether {name} trains", parameter.requires_grad
        yield f"the gradient of {name}", parameter.grad is None


def _bytes(tensor: torch.Tensor) -> bytes:
    """The bytes of a buffer, by which a side effect on it is seen."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _comparable(value: Any) -> object:
    """A value of an anatomy in a form that is equal where asking twice gives the same, without side effects."""
    if isinstance(value, tuple | list):
        return [_comparable(each) for each in value]
    if isinstance(value, partial):
        return (value.func, _comparable(value.args), [*value.keywords.items()])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (type(value), [_comparable(getattr(value, field.name)) for field in dataclasses.fields(value)])
    compares = any("__eq__" in vars(kind) for kind in type(value).__mro__[:-1])
    if callable(value) and not compares and not hasattr(value, "__qualname__"):
        return pickle.dumps(value)  # such as operator.itemgetter(0), which is never equal to another one
    return value
