"""The check of weights entries: what they convert, ignore and crop, and the models that they are for."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from fnmatch import fnmatchcase
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.build.construct import construct
from zoo_core.errors import LoadMismatch
from zoo_core.surgery.load_state_dict import load_state
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.builds import marks_of
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.process import files_left, printed, watched, without_network
from zoo_core.testing.under_test import (
    DETECTORS,
    SHAPES_ABOVE,
    arguments,
    by_shapes,
    inside,
    model_under_test,
    same,
)
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.meta_shapes import MetaShapes
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.contract.card import Card, Weights

_IMAGE = 3
"""Numbers of an input_size that has channels, rows and columns."""
_MOST_ABSENT = 0.5
_MOST_BYTES = 1000
"""Bytes for a parameter, at most: a file may hold the state of an optimizer, or a model of text beside."""
_LEAST_BYTES = 8
"""Parameters for which a file has at least one byte: fewer is a size in other units."""
_UNKNOWN = "a_tensor_that_no_model_has"
_UNKNOWN_SHAPE = (3, 1, 7, 1)
_SEED = 20_261_129
"""One that no library sets."""


def check_state(card: Card) -> None:
    """What converts a file to load gives the model's names; the options of its weights build one with their classes.

    No file is fetched: a state dict in the model's own layout goes through ``convert``, which has to leave it loadable.
    """
    seen: list[tuple[tuple[object, ...], int]] = []
    crops: list[tuple[dict[str, object], object]] = []
    for weights in card.weights:
        key = (weights.convert, weights.ignore, weights.absent, dict(weights.options))
        classes = next((result for known, result in seen if known == key), None)
        if classes is None:
            classes = _check_entry(card, weights)
            seen.append((key, classes))
        if (images := (dict(weights.options), weights.preprocessing.crop)) not in crops:
            _check_crop(card, weights)
            crops.append(images)
        require(
            weights.num_classes in (0, classes) or not classes,
            f"{card.id}@{weights.tag}: it says {weights.num_classes} classes, and the head of the model that its "
            f"options build gives {classes}",
        )


def _check_entry(card: Card, weights: Weights) -> int:
    """Check what loading makes of a weights entry, and say how many classes its model has; 0 without a head."""
    label = f"{card.id}@{weights.tag}"
    model = _model_for(card, weights)
    main = anatomy_of(model).main
    parameters = sum(parameter.numel() for parameter in model.parameters())
    require(
        weights.size is None or weights.size >= parameters / _LEAST_BYTES,
        f"{label}: a size of {weights.size} bytes for {parameters:,} parameters; is it in kilobytes or megabytes?",
    )
    require(
        weights.size is None or weights.size <= parameters * _MOST_BYTES,
        f"{label}: a size of {weights.size} bytes for {parameters:,} parameters is too large; is it in bytes?",
    )
    _check_patterns(label, weights, model)
    _check_conversion(label, weights, model)
    return main.num_classes if main else 0


def _check_patterns(label: str, weights: Weights, model: nn.Module) -> None:
    """Check what loading ignores in a file and lets it lack: nothing that the model learns, and not most of it."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for pattern in weights.ignore:
        own = sum(size for name, size in sizes.items() if fnmatchcase(name, pattern))
        require(
            own <= _MOST_ABSENT * sum(sizes.values()),
            f"{label}: ignore has {pattern!r}, which names most of the model's tensors",
        )
    lacking = sum(size for name, size in sizes.items() if any(fnmatchcase(name, each) for each in weights.absent))
    main = anatomy_of(model).main
    head = [name for name in sizes if main and inside(name, [main.path])]
    untrained = bool(head) and all(any(fnmatchcase(name, each) for each in weights.absent) for name in head)
    require(
        not (untrained and weights.num_classes),
        f"{label}: absent covers the head {head}, which would stay untrained, and num_classes says "
        f"{weights.num_classes}; a file without a head has num_classes=0",
    )
    share = lacking / max(1, sum(sizes.values()))
    require(share <= _MOST_ABSENT, f"{label}: absent covers {share:.0%} of the parameters, which would stay untrained")


def _check_crop(card: Card, weights: Weights) -> None:
    """Check that the model of a file to load takes images as its preprocessing crops them, if it takes its card's."""
    crop = weights.preprocessing.crop
    if crop is None or len(card.input_size) != _IMAGE or tuple(crop) == card.input_size[1:] or card.task in DETECTORS:
        return
    bare = without_values(_model_for(card, weights))
    errors = {}
    for size in (card.input_size[1:], crop):
        with torch.no_grad(), MetaShapes():
            try:
                bare(*(x.to("meta") for x in arguments(card, torch.zeros(1, card.input_size[0], *size))))
            except Exception as error:  # noqa: BLE001 - how models say that they take another size
                errors[tuple(size)] = str(error).partition("\n")[0]
    require(
        tuple(crop) not in errors or card.input_size[1:] in errors,
        f"{card.id}@{weights.tag}: the crop of its preprocessing is {tuple(crop)}, and the model takes no such "
        f"images, but those of its card, {card.input_size}: {errors.get(tuple(crop))}",
    )


def _check_conversion(label: str, weights: Weights, model: nn.Module) -> None:
    """Check that loading converts a file in the model's own layout to the same, and keeps the model itself as it is."""
    layout = model.state_dict()
    if weights.convert is None or not all(isinstance(each, Tensor) for each in layout.values()):
        return  # what a quantised model keeps is no layout of a file that something could be converted from
    label = f"{label}: {weights.convert}"
    own = _other_values(layout)
    if any(each.is_meta for each in own.values()) and _converted_or_refused(weights.convert, own, model) is None:
        model = _with_zeros(label, model)
        layout = model.state_dict()
        own = _other_values(layout)
    before = dict(marks_of(model))
    with watched() as changes, printed() as text, files_left() as files, without_network() as hosts, seeded(_SEED):
        given = dict(own)
        state = _converted(label, weights.convert, given, model)
        is_seeded = torch.initial_seed() != _SEED
    after = dict(marks_of(model))
    moved = [mark for mark in {**before, **after} if before.get(mark) != after.get(mark)]
    require(not moved, f"{label} changes the model that it is given: {', '.join(moved[:5])}")
    changes += ["the seed of torch"] if is_seeded else []
    require(not changes, f"{label} changes {', '.join(changes)} for the whole process")
    require(not [*text, *files], f"{label} {', '.join([*text, *files])}")
    require(not hosts, f"{label} asks the network for {', '.join(hosts)}; what it needs has to be in the file")
    again = _converted(label, weights.convert, dict(own), model)
    require(again.keys() == state.keys(), f"{label} gives other tensors when it is called again for the same file")
    taken = [name for name in own if name not in given]
    require(not taken, f"{label} takes {', '.join(taken[:5])} out of the mapping that it is given")
    expected = _other_values(layout)
    other = [name for name, tensor in state.items() if name in own and not _kept_tensor(tensor, expected[name])]
    require(
        not other,
        f"{label} changes the values of {', '.join(other[:5])} in a file that is in the model's own "
        "layout, such as one that a user saved",
    )
    _check_other_files(label, weights.convert, own, model)
    heads = [head.path for head in anatomy_of(model).heads]
    lost = [name for name in own if name not in state and inside(name, heads)]
    require(not lost, f"{label} loses {', '.join(lost)}")
    _check_other_classes(label, weights.convert, own, model, heads)
    try:
        load_state(
            duplicate(model),
            state,
            ignore=weights.ignore,
            replaceable=heads,  # the file may have other classes than the model: a row more, for the background
            source=f"what {weights.convert} returns",
        )
    except LoadMismatch as error:
        raise NonConformance(f"{label}: {error.message}") from error


def _check_other_classes(label: str, convert: str, own: dict[str, Tensor], model: nn.Module, heads: list[str]) -> None:
    """Check that loading a file of more classes than the model has, as a user's own may be, keeps or refuses all."""
    more = {name: torch.cat([own[name]] * 2) for name in own if inside(name, heads) and own[name].dim()}
    state = _converted_or_refused(convert, {**own, **more}, model)
    if state is None:
        return
    cut = [name for name in more if name not in state or state[name].shape != more[name].shape]
    require(
        not cut,
        f"{label} cuts {', '.join(cut[:5])} of a file that has more classes than the model: such a file loads as if it "
        "had as few",
    )


def _check_other_files(label: str, convert: str, own: dict[str, Tensor], model: nn.Module) -> None:
    """Check that loading a file with a tensor too few does not hide it, and keeps no tensor in memory.

    One too many may be dropped: files of whole language models hold the text's tensors too, as those of Qwen do.
    """
    unknown = torch.zeros(_UNKNOWN_SHAPE)
    _converted_or_refused(convert, {**own, _UNKNOWN: unknown}, model)
    parameters = [name for name, _ in model.named_parameters()]
    for name in {*parameters[:1], *parameters[-1:]}:
        less = _converted_or_refused(convert, {each: own[each] for each in own if each != name}, model)
        require(
            less is None or name not in less,
            f"{label} gives a {name} to a file that has none: it would stay untrained without a word; name in "
            "Weights.absent what a file may lack",
        )
    kept = weakref.ref(unknown)
    del unknown
    gc.collect()
    require(kept() is None, f"{label} keeps what it is given in memory")


def _converted_or_refused(convert: str, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    """What a conversion makes of a file that is not as it should be; None where it refuses it."""
    with suppress(Exception):
        return dict(resolve_name(convert)(state, model))
    return None


def _with_zeros(label: str, model: nn.Module) -> nn.Module:
    """A copy of the model with values, to load by a conversion that fails without: a library's loader copies them.

    Raises:
        NotChecked: It is too large for that.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    count = sum(tensor.numel() for tensor in tensors.values())
    if count > SHAPES_ABOVE:
        raise NotChecked(f"{label} fails without values, and {count:,} of them are too many to check it with")
    memo: dict[int, Any] = {}
    for tensor in tensors.values():
        zeros = torch.zeros_like(tensor, device="cpu")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(zeros, requires_grad=tensor.requires_grad) if is_parameter else zeros
    return duplicate(model, memo)


def _other_values(layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors to load, of the model's shapes and of no model's values, so that it is seen whose a conversion gives.

    No two have the same values, nor have two channels of a norm.
    """
    result = {}
    for place, (name, tensor) in enumerate(layout.items()):
        if not tensor.is_floating_point():
            result[name] = tensor.clone()
            continue
        result[name] = tensor + (1 + place)
        if tensor.dim() == 1:
            result[name] += torch.linspace(0, 0.5, len(tensor)).to(tensor)
    return result


def _kept_tensor(converted: object, right: Tensor) -> bool:
    """Whether a tensor comes out of the conversion for loading as the file has it under its name."""
    return isinstance(converted, Tensor) and converted.dtype == right.dtype and same(converted, right)


def _model_for(card: Card, weights: Weights) -> nn.Module:
    """The model that the file of a weights entry is loaded into, built with the options of the entry."""
    if not weights.options:
        return model_under_test(card)
    model = construct(card, {**card.options, **weights.options}, own=weights.options, values=not by_shapes(card))
    return model.to("meta") if by_shapes(card) else model


def _converted(label: str, convert: str, own: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What the conversion of a file's state dict makes of it for loading; whatever it raises is a finding."""
    try:
        result: Any = resolve_name(convert)(own, model)
    except Exception as error:  # a plugin's own code: whatever it raises is the finding
        raise NonConformance(
            f"{label}: {convert} fails on a state dict in the model's own layout",
            got=f"{type(error).__name__}: {error}",
            hint="it may be given a file that needs no conversion, such as one the user saved",
        ) from error
    require(isinstance(result, dict), f"{label}: {convert} returns a {type(result).__name__}, not a state dict")
    return dict(result)
