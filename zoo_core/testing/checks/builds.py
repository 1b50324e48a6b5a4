"""The check of builds: a model as its card says, made each time anew, with no side effect on the process."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, cast

import torch
from torch import nn

from zoo_core.build.get import get
from zoo_core.build.skip_init import without_values
from zoo_core.contract.anatomy import Anatomy
from zoo_core.contract.card import Card
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import anatomy_of, metadata_of
from zoo_core.surgery.structure import under
from zoo_core.testing.findings import NonConformance, require
from zoo_core.testing.process import files_left, printed, random_states, started_from, temporary_folder, watched
from zoo_core.testing.under_test import DETECTORS, built_with, by_shapes, inputs_of, model_under_test, same, tensors
from zoo_core.utils.random_state import seeded

_VECTOR_AXES = 2
_SEED = 20_261_128
"""One that no library sets."""
_PLAIN = (bool, int, float, str, type(None))
_looked_at: set[tuple[str, ...]] = set()
"""The families, and what builds their models, where it was looked for what stays in memory: that takes a while."""


def check_builds(card: Card) -> None:
    """It builds untrained, without a network or side effects, with the parameters and classes of its card."""
    model = model_under_test(card)
    check_side_effects(card)
    counts = {_count_parameters(model)}
    if card.parameters not in (None, *counts) and card.default:
        # libraries publish the number for the model that the weights are for, which may be of another size
        counts.add(_count_parameters(get(card.id, weights=None, options=card.find().options, device="meta")))
    result = " or ".join(f"{count:,}" for count in sorted(counts))
    require(
        card.parameters in (None, *counts),
        f"{card.id}: it has {result} parameters, not the {card.parameters} of its card",
    )
    main = anatomy_of(model).main
    if main is None:
        _call_built(card, model)
        is_traced = current_zoo().member(card.family).family.anatomy is None
        has_classes = card.task in (*_DENSE, "classification") and card.num_classes > 0 and not is_traced
        require(
            not has_classes,
            f"{card.id}: its card says a model of {card.num_classes} classes, and its anatomy has no head; "
            "a model that gives features has num_classes=0",
        )
        return
    classes = f"{card.id}: the card says {card.num_classes} classes"
    require(main.num_classes == card.num_classes, f"{classes}, and head site {main.path!r} gives {main.num_classes}")
    scores = _call_built(card, model)
    if card.task in DETECTORS:  # they give boxes, as many as they find
        return
    shape = tuple(next(tensors(scores)).shape)
    right = shape[:2] == (2, card.num_classes) or (card.num_classes == 0 and shape[:1] == (2,))
    require(right, f"{classes}, and two images give scores of the shape {shape}")
    axes = len(card.input_size) + 1
    require(
        card.task != "classification" or set(shape[_VECTOR_AXES:]) <= {1},
        f"{card.id}: two images give scores of the shape {shape}, and the task 'classification' has one score a class "
        "for an image; 'segmentation' has one for a pixel",
    )
    require(
        card.task != "segmentation" or len(shape) == axes,
        f"{card.id}: two images give scores of the shape {shape}, and the task 'segmentation' has one for each pixel",
    )
    require(
        card.task != "video" or axes == _VIDEO_AXES,
        f"{card.id}: the task 'video' has an input_size of channels, frames, height and width, not {card.input_size}",
    )


_DENSE = ("segmentation", "video")
_VIDEO_AXES = 5


def _call_built(card: Card, model: nn.Module) -> object:
    """Check that a built model runs as those of its task are called; gives its scores, or all without a head."""
    try:
        with torch.no_grad():
            output = model(*inputs_of(card))
        return anatomy_of(model).scores_in(output) if anatomy_of(model).heads else output
    except Exception as error:
        call = _CALLS.get(card.task, _CALL)
        raise NonConformance(
            f"{card.id}: it does not run as a model of the task {card.task!r} is called, with {call}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause=f"its forward takes something else, or images of another size than {card.input_size}, or its scores "
            "are not where Anatomy.scores says",
            hint="another task, of whatever name, is called with one batch; what takes neither is no model for a "
            "catalogue, and its users give it to zoo.adopt(model, example=...)",
        ) from error


_CALL = "one batch of torch.float32"
_CALLS = {
    **dict.fromkeys(DETECTORS, "a list of images, as torchvision's detectors are"),
    "optical_flow": "two batches of images, as torchvision's RAFT is",
}
"""What models are called with, by their task."""


def _count_parameters(model: nn.Module) -> int:
    """How many parameters a model has once it is built, for the check of builds to compare with its card."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_side_effects(card: Card) -> None:
    """Building a model and asking for its anatomy leave the process and the model as they were; a part of "builds".

    Each build is a model of its own, in train mode, that trains; the anatomy is the same each time it is requested;
    and neither leaves anything in memory.
    """
    model, member = model_under_test(card), current_zoo().member(card.family)
    anatomy = member.anatomy if member.family.anatomy is not None and card.name not in member.own else None
    fresh, changes = _build(card, model)
    _check_own_and_trains(card, model, fresh)
    if not by_shapes(card) and _is_first("seed", card.family, card.build):
        _check_seeded(card, model)
    if anatomy:
        _check_side_effects_of_anatomy(card, model, fresh, anatomy)
    once = [each for each in built_with(model).changes if each not in changes]
    require(not once, f"{card.id}: building it for the first time changes {', '.join(once)} for the whole process")
    references = {name: weakref.ref(tensor) for name, tensor in _tensors(fresh)}
    del fresh
    if _is_first(card.family, card.build):
        _check_released(card, references)
    if anatomy and _is_first(card.family):
        _check_tensors_left(card, model, anatomy)


def _build(card: Card, model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Build the model once more for the check, as its library makes it; a side effect on the process is a finding."""
    with (
        seeded(_SEED),
        started_from(_SEED) as before,
        watched() as changes,
        printed() as text,
        files_left() as files,
        temporary_folder() as temporary,
    ):
        fresh = _build_anew(card, metadata_of(model).options)
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
        require(
            not drawn,
            f"{label} draws from {name}, which zoo.get(seed=...) does not seed as it does torch",
        )
    return fresh, changes


def _build_anew(card: Card, options: Mapping[str, object]) -> nn.Module:
    """Build a model anew by its library's constructor, to check what side effects that has."""
    builder = current_zoo().member(card.family).builder(card)
    try:
        with without_values():
            return cast("nn.Module", builder(**options))
    except Exception:  # noqa: BLE001 - it needs the values, as construct finds too
        return cast("nn.Module", builder(**options))


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers of a model that was built, by name, on which the check looks for side effects."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_own_and_trains(card: Card, model: nn.Module, again: nn.Module) -> None:
    """Building again gives a model that shares no tensor with the one before, and trains, with no part frozen."""
    label = f"{card.id}: its constructor"
    shapes, now = ({name: each.shape for name, each in _tensors(one)} for one in (model, again))
    other = [name for name in {**shapes, **now} if shapes.get(name) != now.get(name)]
    require(not other, f"{label} returns another model the second time: {', '.join(other[:5])} differ")
    kinds, again_kinds = (  # by name: torch makes a class for each layer that it parametrizes
        {path: f"{type(each).__module__}.{type(each).__qualname__}" for path, each in one.named_modules()}
        for one in (model, again)
    )
    other = [path or "the model itself" for path, kind in again_kinds.items() if kinds.get(path) != kind]
    require(not other, f"{label} returns another model the second time: the class of {', '.join(other[:5])} differs")
    known = {id(tensor) for _, tensor in _tensors(model)}
    shared = [name for name, tensor in _tensors(again) if id(tensor) in known]
    require(not shared, f"{label} returns a model that shares {', '.join(shared[:5])} with the one before")
    _check_own_attributes(label, model, again)
    require(again.training, f"{label} returns a model in eval mode; zoo.get gives models in train mode")
    before = {id(module) for module in model.modules()}  # an activation may be one module in all models of a library
    off = [path for path, module in again.named_modules() if not module.training and id(module) not in before]
    require(not off, f"{label} returns a model of which {', '.join(off[:5])} is in eval mode")
    trains = {name: parameter.requires_grad for name, parameter in again.named_parameters()}
    require(any(trains.values()) or not trains, f"{label} freezes every parameter")
    graded = [name for name, parameter in again.named_parameters() if parameter.grad is not None]
    require(not graded, f"{label} returns a model with gradients, which the first step would add to: {graded[:5]}")
    anatomy = metadata_of(model).anatomy
    parts = {f"stage {stage.name}": stage.modules for stage in anatomy.stages}
    parts |= {f"head site {head.path}": (head.path,) for head in anatomy.heads}
    for part, paths in {**parts, "the stem": anatomy.stem}.items():
        inside = [on for name, on in trains.items() if any(under(name, path) for path in paths)]
        require(any(inside) or not inside, f"{label} freezes every parameter of {part}")


def _check_own_attributes(label: str, model: nn.Module, again: nn.Module) -> None:
    """Check that two builds of a model share no configuration in which surgery changes a number."""
    anatomy = metadata_of(model).anatomy
    for path in (*(path for head in anatomy.heads for path in head.attributes), *anatomy.channel_attributes):
        owner = path.rpartition(".")[0]
        try:
            one, two = (attrgetter(owner)(each) if owner else each for each in (model, again))
        except AttributeError:  # which the check of paths says
            continue
        require(
            one is not two,
            f"{label} returns a model that shares {owner} with the one before: what changes {path} in one of them, as "
            "zoo.swap_head does, changes it in all",
        )


def _check_seeded(card: Card, model: nn.Module) -> None:
    """Built twice from one seed of torch it has the same values, which ``zoo.get(seed=...)`` promises."""
    builder, options = current_zoo().member(card.family).builder(card), metadata_of(model).options
    with seeded(_SEED):
        one = builder(**options)
    with seeded(_SEED):
        two = builder(**options)
    theirs = dict(_tensors(two))
    other = [name for name, tensor in _tensors(one) if not same(tensor, theirs[name])]
    require(
        not other,
        f"{card.id}: built twice from one seed of torch, {', '.join(other[:5])} differ: they are drawn from another "
        "generator, which zoo.get(seed=...) does not seed",
    )


def _is_first(*what: str) -> bool:
    """Whether builds of a family are checked for the first time: what stays in memory is looked for once."""
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
    """In the check of builds, that asking for the anatomy leaves no tensor in memory."""
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
    """How many tensors there are in memory, for the check of builds that none is left there."""
    return sum(type(each) is torch.Tensor or type(each) is nn.Parameter for each in gc.get_objects())


def _check_side_effects_of_anatomy(
    card: Card, model: nn.Module, fresh: nn.Module, anatomy: Callable[[nn.Module], Any]
) -> None:
    """Check that asking a built model for its anatomy has no side effect, and gives one answer each time."""
    label = f"{card.id}: asking for its anatomy"
    tensors = {} if by_shapes(card) else {name: tensor.clone() for name, tensor in _tensors(model)}
    before, states = dict(marks_of(fresh)), random_states()
    with seeded(_SEED), watched() as changes, printed() as text, files_left() as files:
        drawn = torch.get_rng_state()
        anatomy(fresh)
        answers = [metadata_of(model).anatomy, anatomy(model), anatomy(model)]
        still = states == random_states() and torch.equal(drawn, torch.get_rng_state())
    require(not changes, f"{label} changes {', '.join(changes)} for the whole process")
    require(not [*text, *files], f"{label} {', '.join([*text, *files])}")
    require(still, f"{label} draws random numbers, or seeds a generator: its answer may be another each time")
    now, after = dict(_tensors(model)), dict(marks_of(fresh))
    moved = [name for name, tensor in tensors.items() if name not in now or not same(now[name], tensor)]
    moved += [mark for mark in {**before, **after} if before.get(mark, ...) != after.get(mark, ...)]
    require(not moved, f"{label} changes {', '.join(moved[:5])}")
    for field in dataclasses.fields(Anatomy):
        values = [_comparable(getattr(answer, field.name)) for answer in answers]
        require(values[0] == values[1] == values[2], f"{label} twice gives two values of Anatomy.{field.name}")


def marks_of(model: nn.Module) -> Iterable[tuple[str, object]]:
    """All of a built model that a side effect may change: parameters' versions, buffers' bytes, modes, hooks, numbers.

    torch counts a write to the statistics of a norm in eval mode too, so that their values are compared.
    """
    for name, tensor in _tensors(model):
        is_buffer = not isinstance(tensor, nn.Parameter) and not tensor.is_meta
        if is_buffer:
            value: object = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        else:
            value = tensor._version  # noqa: SLF001 - torch's only way
        yield name, (id(tensor), value)  # an optimizer would go on with a tensor that was replaced
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


def _comparable(value: Any) -> object:
    """In the check of builds, a value of an anatomy in a form that is equal where asking twice gives the same."""
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
