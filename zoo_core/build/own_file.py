"""A model from a file of the user's own: built as the file is, loaded whole, and left for ``get`` to edit.

The constructor is given what the road of such a file implies: the options of the card's default weights, because that
is what people fine-tune. Where names or shapes say otherwise, the other options of the card are tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from torch import Tensor, float4_e2m1fn_x2, nn

from zoo_core.build.construct import construct
from zoo_core.build.file_shape import (
    children_by_number,
    guesses,
    head_in_file,
    image_sizes_in_file,
    meet_classifier,
    meet_keypoints,
    meet_other_heads,
    meet_stem,
    tensors_at,
    warn_of_order,
)
from zoo_core.build.head_names import take_head_beside, take_renamed_head
from zoo_core.build.load import loses_head
from zoo_core.build.misfit import explained
from zoo_core.build.pickled_layers import differences, in_words, meet_layers, options_in
from zoo_core.contract.card import Card, Weights
from zoo_core.errors import LoadMismatch, Unreadable, ZooError, ZooWarning
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.head.fit import fitted
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.load_state_dict import load_state, warn_of_nonfinite
from zoo_core.surgery.metadata import anatomy_of, attach, metadata_of
from zoo_core.surgery.receipt import Outcome, Receipt
from zoo_core.surgery.structure import under
from zoo_core.text import first_few
from zoo_core.utils.mapped_pages import private
from zoo_core.utils.random_state import seeded
from zoo_core.weights.checkpoint.candidates import with_names
from zoo_core.weights.checkpoint.choose import Choice, choose
from zoo_core.weights.checkpoint.unsupported import refuse_odd_tensors

if TYPE_CHECKING:
    from zoo_core.build.request import ModelRequest
    from zoo_core.weights import Artefact
    from zoo_core.weights.checkpoint.read import Checkpoint
    from zoo_core.weights.formats.plain_pickle import Foreign

_MOST_ROADS = 6
_PACKED = (float4_e2m1fn_x2,)
"""Two numbers in a byte, which torch converts to nothing."""
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class _Built:
    """A model as its constructor made it, and what of the user's own file is for it."""

    model: nn.Module
    choice: Choice
    options: Mapping[str, object]
    wrong: tuple[int, int]
    """How many tensors, heads and first layers apart, are missing, too many or of another shape; and then how many
    counters of batches have no norm that counts: frozen norms have none, and compute with another epsilon."""
    refused: Collection[str] = ()
    """Options that a whole model in the file has, of which its constructor refuses at least one."""


def build_own(card: Card, checkpoint: Checkpoint, artefact: Artefact, request: ModelRequest) -> tuple[nn.Module, bool]:
    """The model that a file of the user's own is of, loaded.

    Args:
        card: What the user says it is.
        checkpoint: What is in the file.
        artefact: The file.
        request: What the model is to become afterwards, and which tensors to take.

    Returns:
        The model, and whether it has the head that was requested already.

    Raises:
        LoadMismatch: A tensor of the file has no place, or the model needs one that the file lacks.
        Unreadable: A tensor is not of plain numbers.

    Warns:
        ZooWarning: Tensors outside the model's prefix, or a head that cannot be kept, are left out; the file does not
            say all of the model; or its numbers are nan or infinite.
    """
    built = _at_its_size(card, _best(card, checkpoint, request), checkpoint, request)
    built = _with_its_settings(card, built, checkpoint, request)
    if built.wrong[0]:
        built = min((built, *_converted(card, built)), key=lambda each: each.wrong)
    if built.wrong[0]:
        names = current_zoo().member(card.family).family.plain_options
        others = (each for _, each in _switched(card, built, checkpoint, request, names))
        built = next((each for each in others if not each.wrong[0]), built)
    model, choice, source = built.model, built.choice, artefact.path.name
    if choice.module is None:
        _say_unseen(card, built, checkpoint, request)
    refuse_odd_tensors(choice.state, artefact.path)
    state = _settled(model, choice.state, artefact.path)
    if choice.numbered and choice.module:
        choice = replace(choice, module=with_names(choice.module, children_by_number(model)))
    differing = meet_layers(model, choice.module, built.refused) if choice.module else ()
    # what holds numbered children is another class, and may end before the last of them
    unmet = {each.path for each in differing if not choice.numbered or (each.path and (each.layer or "." in each.path))}
    notes: dict[str, str] = {}
    choice = take_head_beside(model, choice, state, request, notes)
    take_renamed_head(model, state, request, source, notes)
    try:
        meet_keypoints(model, state)
        meet_stem(model, state)
        if meet_classifier(model, state):
            _say_guess(anatomy_of(model).heads[0].path, source)
        fresh = _meet_head(model, state, request, source, notes)
        meet_other_heads(model, state)
        if checkpoint.mapped:  # a trainer may write to the file again while the model lives
            state = {name: private(tensor) for name, tensor in state.items()}
        outcomes = load_state(
            model,
            state,
            absent=[f"{path}.*" for path in fresh],
            source=source,
            assign=True,
        )
    except LoadMismatch as error:
        raise explained(error, model, replace(choice, state=state), checkpoint) from error
    _record(replace(built, choice=choice), artefact, outcomes, notes)
    _say_doubts(model, choice, unmet, request, source)
    warn_of_nonfinite(model, {name for name, what in outcomes.items() if what == "loaded"}, source, stacklevel=2)
    return model, bool(fresh)


def _settled(model: nn.Module, state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The tensors of a user's own file with scalars as the model has them: some libraries write ``[1]`` for ``[]``.

    Raises:
        Unreadable: One holds complex or packed numbers or integers where the model has fractions.
    """
    own = model.state_dict()
    result = dict(state)
    for name, tensor in state.items():
        mine = own.get(name)
        if not isinstance(mine, Tensor):
            continue
        if mine.is_floating_point() and (not tensor.is_floating_point() or tensor.dtype in _PACKED):
            is_complex = tensor.is_complex()
            what = "packed numbers" if tensor.dtype in _PACKED else "integers"
            kind = "a complex tensor" if is_complex else f"a tensor of {what} ({tensor.dtype})"
            raise Unreadable(
                f"{name!r} in {path} is {kind}",
                expected=f"real numbers, as {type(model).__name__} has there",
                cause=None if is_complex else "the weights were quantised, and these are codes",
                hint="save its real part, tensor.real, if the other is zero"
                if is_complex
                else "save the model before it is quantised, or tensor.float() where the numbers are values",
                path=path,
                names=(name,),
            )
        if tensor.numel() == mine.numel() == 1:
            result[name] = tensor.reshape(mine.shape)
    return result


def _best(card: Card, checkpoint: Checkpoint, request: ModelRequest) -> _Built:
    """The model built with the options that the user's own file fits best, those of the default weights first."""
    best: _Built | None = None
    for options in _roads(card, request.options):
        try:
            built = _built(card, options, checkpoint, request)
        except ZooError:
            if best is None:
                raise
            continue
        if best is None or built.wrong < best.wrong:
            best = built
        if not any(best.wrong):
            break
    assert best is not None  # noqa: S101 - there is always a road: that of the default weights
    return best


def _roads(card: Card, own: Mapping[str, object] | None) -> Iterator[dict[str, object]]:
    """What the constructor may have been given for the user's own file, the likeliest first, each once."""
    default = next((each for each in card.weights if each.tag == card.default), None)
    entries: list[Weights | None] = [default, None, *card.weights]
    seen: list[dict[str, object]] = []
    for entry in entries:
        options = {**card.options, **(entry.options if entry else {}), **(own or {})}
        if options not in seen and len(seen) < _MOST_ROADS:
            seen.append(options)
            yield options


def _built(card: Card, options: Mapping[str, object], checkpoint: Checkpoint, request: ModelRequest) -> _Built:
    """A model built with these options, and what of the user's own file fits it."""
    model = construct(card, options, own=request.options, values=False)
    own = _shapes_of(model)
    children = [name for name, _ in model.named_children()]
    choice = choose(checkpoint.candidates, own, ema=request.ema, prefix=request.prefix, children=children)
    return _Built(model, choice, options, _wrong(model, own, choice.state))


def _wrong(model: nn.Module, own: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> tuple[int, int]:
    """How many names and shapes of a user's own file are not the model's, and then how many counters of norms."""
    anatomy = anatomy_of(model)
    heads = (*(site.path for site in anatomy.heads if site.role == "main"), anatomy.keypoints or "?")
    apart = tuple(f"{path}." for path in heads)
    counted = {name for name in {*own, *state} if not name.startswith(apart) and not name.endswith(_COUNTER)}
    stem = {f"{path}.weight" for path in anatomy.stem}
    wrong = sum(
        name not in own or name not in state or (tuple(state[name].shape) != own[name] and name not in stem)
        for name in counted
        if not (name in state and not hasattr(state[name], "shape"))
    )
    return wrong, sum(name.endswith(_COUNTER) and name not in own for name in state)


def _converted(card: Card, best: _Built) -> Iterator[_Built]:
    """The tensors of a user's own file with older names brought up to date, as for published weights."""
    for convert in dict.fromkeys(entry.convert for entry in card.weights if entry.convert):
        with suppress(Exception):  # a family's function for its own files: these may be anything
            state = resolve_name(convert)(dict(best.choice.state), best.model)
            if isinstance(state, Mapping) and state:
                state = _with_counters(best.choice.state, state)
                choice = replace(best.choice, state=state)
                yield replace(best, choice=choice, wrong=_wrong(best.model, _shapes_of(best.model), state))
                return


def _with_counters(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Converted tensors with the counter of each norm beside its statistics, for what renames these may not know it."""
    homes = {id(tensor): name.rpartition(".")[0] for name, tensor in new.items() if name.endswith(".running_var")}
    result = dict(new)
    for name in [name for name in new if name in old and name.endswith(f".{_COUNTER}")]:
        norm = name.rpartition(".")[0]
        home = homes.get(id(old.get(f"{norm}.running_var")), norm)
        result[f"{home}.{_COUNTER}"] = result.pop(name)
    return result


def _at_its_size(card: Card, built: _Built, checkpoint: Checkpoint, request: ModelRequest) -> _Built:
    """The model built for images of the size that position tables in the user's own file are for."""
    option = current_zoo().member(card.family).family.image_size
    if not built.wrong[0] or not option or option in (request.options or {}):
        return built
    size = built.options.get(option, card.input_size[-1])
    sizes = image_sizes_in_file(int(str(size)), _shapes_of(built.model), built.choice.state)
    for result in sizes:
        with suppress(ZooError):
            other = _built(card, {**built.options, option: result}, checkpoint, request)
            if other.wrong < built.wrong:
                return other
    return built


def _switched(
    card: Card, built: _Built, checkpoint: Checkpoint, request: ModelRequest, names: Collection[str]
) -> Iterator[tuple[str, _Built]]:
    """The model for a user's own file with a switch the other way, as where auxiliary heads were left out."""
    for name in names:
        value = getattr(built.model, name, None)
        if isinstance(value, bool) and name not in (request.options or {}):
            with suppress(ZooError):
                yield name, _built(card, {**built.options, name: not value}, checkpoint, request)


def _say_unseen(card: Card, built: _Built, checkpoint: Checkpoint, request: ModelRequest) -> None:
    """Warn of a switch that published weights set, and of which names and shapes in a file show nothing."""
    roads = [*_roads(card, request.options)]
    names = {name for road in roads for name in road if any(road.get(name) != each.get(name) for each in roads)}
    for name, other in _switched(card, built, checkpoint, request, sorted(names)):
        if _shapes_of(other.model) == _shapes_of(built.model):
            value = getattr(built.model, name)
            text = (
                f"{checkpoint.path.name} does not say what {name!r} was in training, and outputs differ: {value} "
                f"is taken, and options={{{name!r}: {not value}}} says the other (with {value}, this is not warned of)"
            )
            warnings.warn(text, ZooWarning, stacklevel=2)


def _with_its_settings(card: Card, built: _Built, checkpoint: Checkpoint, request: ModelRequest) -> _Built:
    """The model built with the settings of the whole model in the user's own file, where it takes such."""
    if built.choice.module is None:
        return built
    size = current_zoo().member(card.family).family.image_size
    options = options_in(built.model, built.choice.module, size)
    options = {name: value for name, value in options.items() if name not in (request.options or {})}
    if options:
        try:
            other = _built(card, {**built.options, **options}, checkpoint, request)
        except ZooError:
            return replace(built, refused=options)
        if other.wrong <= built.wrong:
            return other
    return built


def _meet_head(
    model: nn.Module, state: dict[str, Any], request: ModelRequest, source: str, notes: dict[str, str]
) -> list[str]:
    """Give ``model`` the head of the user's own file, or the requested one where the file has none.

    Returns:
        Paths of heads that have values already, so that the file may lack them.
    """
    site = anatomy_of(model).main
    if site is None:
        return []
    inside = tensors_at(state, site)
    if request.head is not None and _shares(inside, model, request.head):
        swap_head(model, request.head)
        _drop_misshaped(model, state, site.path, notes)
        return [each.path for each in anatomy_of(model).heads]
    own = tensors_at(_shapes_of(model), site)
    if {name: tuple(tensor.shape) for name, tensor in inside.items()} == own:
        return []
    result = head_in_file(inside, site) if inside else None
    if result is not None:
        with suppress(ZooError):
            _swap(model, result, inside, site.path)
            if guesses(result) and not loses_head(model, request):
                _say_guess(site.path, source)
            return []
    if not inside:
        return _put_fresh(model, request)
    # without a request the load says what does not fit
    is_replaced = request.head is not None or request.num_classes is not None
    return _replaced(model, state, inside, site.path, request, source, notes) if is_replaced else []


def _say_doubts(model: nn.Module, choice: Choice, unmet: set[str], request: ModelRequest, source: str) -> None:
    """Warn of what names and shapes of the tensors in a user's own file leave open."""
    if choice.module and unmet:
        _say_other_layers(model, choice.module, unmet, request, source)
    if choice.numbered:
        warn_of_order(model, source)
    if choice.rivals and request.prefix is None:
        others = " or ".join(f"prefix={each!r}" for each in choice.rivals)
        text = (
            f"{source} holds several sets of weights that fit alike, and what is under {choice.label!r} was taken: "
            f"{others} takes another"
        )
        warnings.warn(text, ZooWarning, stacklevel=2)


def _say_other_layers(model: nn.Module, module: Foreign, unmet: set[str], request: ModelRequest, source: str) -> None:
    """Name the layers of a whole module in a user's own file that are others than here, which no shape shows."""
    is_new = request.head is not None or request.num_classes is not None
    heads = tuple(site.path for site in anatomy_of(model).heads) if is_new else ()
    left = [
        each
        for each in differences(model, module)
        if any(under(each.path, path) for path in unmet) and not any(under(each.path, path) for path in heads)
    ]
    if left:
        text = (
            f"{source} is a whole pickled model with layers that differ from those of this {type(model).__name__}: "
            f"{in_words(left)}. Its outputs may differ from those of the saved model. "
            "zoo.adopt(model) takes the one that its own code unpickles"
        )
        warnings.warn(text, ZooWarning, stacklevel=2)


def _say_guess(path: str, source: str) -> None:
    """Warn of what a user's own file does not say of its head, and what is taken instead."""
    text = (
        f"{source} does not say which nonlinearity and norm are in its head at {path!r}: ReLU is taken between layers, "
        "nothing after the last, and layer norm with torch's eps. head=zoo.mlp_head(..., nonlinearity=...) or a module "
        "of your own says another"
    )
    warnings.warn(text, ZooWarning, stacklevel=2)


def _swap(model: nn.Module, found: Any, inside: Mapping[str, Any], path: str) -> None:
    """Put the head that a user's own file has into the model."""
    site = anatomy_of(model).main
    weight = inside.get("weight")
    width = weight.shape[1] if weight is not None and weight.dim() > 1 else None
    # the hidden layers before the head are gone, where its input is what they were given
    keep = not (site and width is not None and width != site.in_features and path)
    swap_head(model, found, keep_hidden=keep)


def _put_fresh(model: nn.Module, request: ModelRequest) -> list[str]:
    """Put the head that was requested into the model, in the place of the one in the user's own file."""
    if not loses_head(model, request):
        return []
    swap_head(model, request.new_head)
    return [site.path for site in anatomy_of(model).heads]


def _replaced(
    model: nn.Module,
    state: dict[str, Any],
    inside: Mapping[str, Any],
    path: str,
    request: ModelRequest,
    source: str,
    notes: dict[str, str],
) -> list[str]:
    """Leave out a head of the user's own file that only the user's code could build, with a word."""
    for name in inside:
        del state[f"{path}.{name}"]
    text = (
        f"the head in {source} is left out for the one that was requested: its form is not known, "
        f"{', '.join([*inside][:4])}. Give it as head=, and it is filled"
    )
    warnings.warn(text, ZooWarning, stacklevel=2)
    fresh = _put_fresh(model, request)
    left = f"the head in {source} was left out"
    notes.update(dict.fromkeys((name for name in _shapes_of(model) if name.startswith(f"{path}.")), left))
    return fresh


def _shares(inside: Mapping[str, Any], model: nn.Module, head: Any) -> bool:
    """Whether a head that is requested has a tensor in the user's own file."""
    site = anatomy_of(model).main
    if site is None or not inside:
        return False
    with seeded(0, model):  # what is drawn here is thrown away
        needed = fitted(model, site, head).state_dict()
    return any(
        name in inside and inside[name].shape == tensor.shape for name, tensor in needed.items() if tensor.dim() > 1
    )


def _drop_misshaped(model: nn.Module, state: dict[str, Any], path: str, notes: dict[str, str]) -> None:
    """Leave out what the user's own file has at the head in other shapes than requested, with a note."""
    own = _shapes_of(model)
    for name in [name for name in state if name.startswith(f"{path}.")]:
        shape = tuple(state[name].shape)
        if own.get(name) != shape:
            notes[name] = f"of shape {list(shape)} in the file, which the head that was requested has no place for"
            del state[name]


def _shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name to shape of all tensors of ``model``, to compare with a user's own file."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if hasattr(tensor, "shape")}


def _record(built: _Built, artefact: Artefact, outcomes: Mapping[str, Outcome], notes: Mapping[str, str]) -> None:
    """Write the receipt of a model that was loaded from a user's own file."""
    choice, known = built.choice, metadata_of(built.model)
    label = "".join(f"{key}." for key in choice.keys)
    left: dict[str, Outcome] = {f"{label}{name}" if name in outcomes else name: "ignored" for name in choice.left}
    all_notes = {**dict.fromkeys(left, "not under the prefix of the model"), **notes}
    receipt = Receipt(
        known.receipt.model,
        None,
        artefact.source,
        str(artefact.path),
        artefact.sha256,
        artefact.strength,
        {**outcomes, **left},
        notes=all_notes,
        needed_values=known.receipt.needed_values,
        taken=choice.words,
    )
    attach(built.model, replace(known, receipt=receipt, weights=None))
    if left:
        text = (
            f"{artefact.path.name} holds {len(left)} more tensors, which this model has no place for: "
            f"{first_few([*left])}"
        )
        warnings.warn(text, ZooWarning, stacklevel=2)
