"""The checks of loading: what a weights entry converts and ignores, and a model built without initial values."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.build.construct import construct
from zoo_core.contract.card import Card, Weights
from zoo_core.errors import LoadMismatch
from zoo_core.surgery.load_state_dict import is_packed, load_state
from zoo_core.surgery.metadata import anatomy_of, metadata_of
from zoo_core.testing.checks.builds import marks_of
from zoo_core.testing.findings import NonConformance, NotChecked, require
from zoo_core.testing.process import files_left, printed, watched, without_network
from zoo_core.testing.under_test import (
    DETECTORS,
    SHAPES_ABOVE,
    arguments,
    by_shapes,
    inputs_of,
    inside,
    model_under_test,
    need_values,
    same,
    scores_of,
)
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.meta_shapes import MetaShapes
from zoo_core.utils.random_state import seeded

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
    """In the check of loading, that the model takes images as the weights crop them, if it takes its card's."""
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
    """In the check of loading, what a conversion makes of a file that is not as it should be; None if refused."""
    with suppress(Exception):
        return dict(resolve_name(convert)(state, model))
    return None


def _with_zeros(label: str, model: nn.Module) -> nn.Module:
    """In the check of loading, a copy of the model with values, for a conversion that fails without.

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
    """In the check of loading, whether a tensor comes out of the conversion as the file has it under its name."""
    return isinstance(converted, Tensor) and converted.dtype == right.dtype and same(converted, right)


def _model_for(card: Card, weights: Weights) -> nn.Module:
    """The model that the file of a weights entry is loaded into, built with the options of the entry."""
    if not weights.options:
        return model_under_test(card)
    model = construct(card, {**card.options, **weights.options}, own=weights.options, values=not by_shapes(card))
    return model.to("meta") if by_shapes(card) else model


def _converted(label: str, convert: str, own: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """In the check of loading, what the conversion makes of a state dict; whatever it raises is a finding."""
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


def check_values(card: Card) -> None:
    """Loading the values of a file into a model without initial values makes the model that its constructor makes.

    ``zoo.get`` leaves the drawing of values out where a file replaces them. That is wrong for a constructor that
    computes something else from them, and ``Card.needs_values`` has to say so.

    Raises:
        NonConformance: A parameter, a buffer or an output is another one; the message names it.
        NotChecked: The card says that its constructor draws the values, or the model is quantised.
    """
    need_values(card)
    if not card.needs_values:
        _check_quick_loading(card)
        return
    try:
        needs = not _check_quick_loading(replace(card, needs_values=""))
    except (NonConformance, NotChecked):
        needs = True
    require(
        needs,
        f"{card.id}: needs_values says {card.needs_values!r}, and built without initial values and then loaded it is "
        "the same: leave it out, and it is built in less time",
    )
    raise NotChecked(f"{card.id} is always built with its values: {card.needs_values}")


def _check_quick_loading(card: Card) -> bool:
    """Check that loading into a model without values makes the ordinary one; False if its constructor needs them."""
    ordinary = model_under_test(card)
    if is_packed(ordinary):
        raise NotChecked(f"{card.id} is quantised: its layers pack their values while they load them")
    quick = _model_to_load_into(card)
    if quick is None:
        return False  # it fails without them, and zoo draws them then
    state = ordinary.state_dict()
    load_state(quick, {name: tensor.clone() for name, tensor in state.items()}, assign=True)
    _check_kept(card, quick, state)
    _check_own_loading(card, quick, state)
    x = inputs_of(card)
    with torch.no_grad():  # first, since a model may keep in its buffers what it has computed for the last image
        right = same(scores_of(quick, *x), scores_of(ordinary, *x))
    _compare_loaded(card, "parameter", ordinary, quick, nn.Module.named_parameters)
    _compare_loaded(card, "buffer", ordinary, quick, nn.Module.named_buffers)
    frozen = [{name for name, p in model.named_parameters() if not p.requires_grad} for model in (ordinary, quick)]
    _require_loaded(
        card, frozen[0] == frozen[1], f"it has {len(frozen[1])} frozen parameters instead of {len(frozen[0])}"
    )
    _require_loaded(card, _ties(ordinary) == _ties(quick), "other parameters are one and the same")
    _require_loaded(card, right, "it gives other outputs from the same parameters and buffers")
    return True


def _check_kept(card: Card, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that loading keeps every tensor: no module drops or changes one."""
    loaded = model.state_dict()
    other = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and not same(loaded[name], tensor)]
    if not other:
        return
    owner = type(model.get_submodule(other[0].rpartition(".")[0])).__name__
    raise NonConformance(
        f"{card.id}: loading a state dict drops or changes {', '.join(other[:5])}, without a word",
        cause=f"{owner}._load_from_state_dict, or a hook for loading that was registered with it, does so",
    )


def _check_own_loading(card: Card, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A ``load_state_dict`` that a library wrote itself takes each tensor, and says which one the file lacks."""
    if type(model).load_state_dict is nn.Module.load_state_dict:
        return
    label = f"{card.id}: load_state_dict of {type(model).__name__}"
    own, twin = {name: tensor.clone() for name, tensor in state.items()}, duplicate(model)
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            own[name] = parameter + 1
    twin.load_state_dict(dict(own))
    lost = [name for name, parameter in parameters.items() if not same(parameter, own[name])]
    require(not lost, f"{label} drops {', '.join(lost[:5])} without a word")
    missing = next(iter(parameters))
    del own[missing]
    try:
        twin.load_state_dict(own, strict=True)
    except Exception:  # noqa: BLE001 - however it refuses
        return
    raise NonConformance(f"{label} takes a state dict without {missing}, though it is told strict=True")


def _model_to_load_into(card: Card) -> nn.Module | None:
    """The model to load into, as zoo builds it for a file; None where its constructor fails without values."""
    options = metadata_of(model_under_test(card)).options
    with seeded(0), _visibly_empty():
        model = construct(card, options, values=False)
    if metadata_of(model).receipt.needed_values:  # it may be the number that stands for none that it cannot bear
        model = construct(card, options, values=False)
    return None if metadata_of(model).receipt.needed_values else model.eval()


@contextmanager
def _visibly_empty() -> Iterator[None]:
    """Inside the block, memory to load values into holds NaN for the check, and not what an earlier model left."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _compare_loaded(
    card: Card,
    kind: str,
    ordinary: nn.Module,
    quick: nn.Module,
    of: Callable[[nn.Module], Iterable[tuple[str, Tensor]]],
) -> None:
    """In the check of loading, that a model built without values has the same tensors then as one built with them."""
    theirs, ours = dict(of(ordinary)), dict(of(quick))
    other = [name for name in theirs if name not in ours or not same(ours[name], theirs[name])]
    _require_loaded(card, not other, f"the {kind} {', '.join(map(repr, other[:5]))} is another one")


def _ties(model: nn.Module) -> list[set[str]]:
    """The names of each tied parameter, to check that loading does not untie them."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [each for each in names.values() if len(each) > 1]


def _require_loaded(card: Card, right: bool, finding: str) -> None:  # noqa: FBT001 - as in require
    """Raise a finding of the check of loading unless the condition holds."""
    if right:
        return
    raise NonConformance(
        f"{card.id}: {finding} when it was built without initial values, and then loaded",
        cause="its constructor computes something from the values of parameters that is in no file",
        hint='let the card say what: Card(..., needs_values="its scale is computed from fc.weight")',
    )
