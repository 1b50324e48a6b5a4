"""Giving a built model its weights, and then the head, stem and keypoints that were asked for."""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.head.keypoints import keypoint_site, swap_keypoints
from zoo_core.surgery.metadata import anatomy_of, attach, knowledge_of
from zoo_core.surgery.loading import load_state
from zoo_core.surgery.packed import is_packed, load_packed, packed_state_in
from zoo_core.surgery.receipt import Receipt
from zoo_core.utils.random_state import seeded
from zoo_core.surgery.head.sites import fitted
from zoo_core.surgery.stem.adapt import adapt_stem, stem_layers
from zoo_core.weights.formats.read import may_hold_more, read_whole
from zoo_core.weights.cache.converted import state_dict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import nn

    from zoo_core.build.request import Asked
    from zoo_core.contract.card import Weights
    from zoo_core.contract.anatomy import Head
    from zoo_core.surgery.receipt import Outcome
    from zoo_core.surgery.head.sites import HeadLike
    from zoo_core.weights import Artefact


LOCAL = "local"
"""What vouches for a file of the user's own: nobody but the user."""


def fill(model: nn.Module, known: Weights | None, artefact: Artefact, asked: Asked) -> None:
    """Load a file into ``model``, and write its receipt.

    Args:
        model: As its constructor made it.
        known: The entry of the card that the file is; None for a file of the user's own.
        artefact: The file.
        asked: What will be replaced anyway, and so need not fit.

    Raises:
        Unreadable: The file is not weights.
        LoadMismatch: A tensor that is not replaced does not fit.
    """
    outcomes = (_load_packed if is_packed(model) else _load)(model, known, artefact, asked)
    receipt = Receipt(
        knowledge_of(model).receipt.model,
        known.tag if known else None,
        artefact.source,
        str(artefact.path),
        artefact.sha256,
        artefact.strength,
        outcomes,
        needed_values=knowledge_of(model).receipt.needed_values,
    )
    attach(model, replace(knowledge_of(model), receipt=receipt, weights=known))


def fill_with_nothing(model: nn.Module) -> None:
    """Write the receipt of an untrained model whose values nobody will see, and which were not drawn therefore."""
    known = knowledge_of(model)
    attach(model, replace(known, receipt=known.receipt.with_new((), model.state_dict())))


def _load(model: nn.Module, known: Weights | None, artefact: Artefact, asked: Asked) -> dict[str, Outcome]:
    state = _state_of(artefact, known, model)
    if known is None:
        _meet(model, state, asked)
    return load_state(
        model,
        state,
        ignore=known.ignore if known else (),
        absent=known.absent if known else (),
        replaceable=[*_replaceable(model, asked)],
        source=artefact.path.name,
        # a file of the user's own may be written to again while the model lives, so it is copied and not mapped
        assign=artefact.strength != LOCAL,
    )


def _load_packed(model: nn.Module, known: Weights | None, artefact: Artefact, _: Asked) -> dict[str, Outcome]:
    """Load a quantised model, of which nothing can be replaced: its layers read and pack what the file holds."""
    state = packed_state_in(read_whole(artefact.path)[0], artefact.path)
    if known and known.convert:
        state = resolve_name(known.convert)(state, model)
    return load_packed(model, state, ignore=known.ignore if known else (), source=artefact.path.name)


def _state_of(artefact: Artefact, known: Weights | None, model: nn.Module) -> Mapping[str, torch.Tensor]:
    """What is in the file, under the names of the model."""
    if known is None or known.convert is None:
        return state_dict_of(artefact)
    convert: Callable[[object, nn.Module], Mapping[str, torch.Tensor]] = resolve_name(known.convert)
    whole = known.whole and may_hold_more(artefact.path)
    return convert(read_whole(artefact.path)[0] if whole else state_dict_of(artefact), model)


def operate(model: nn.Module, asked: Asked) -> None:
    """Give ``model`` the stem, head and keypoints that were asked for."""
    if asked.in_channels is not None:
        adapt_stem(model, asked.in_channels)
    wanted = asked.head if asked.head is not None else asked.num_classes
    if wanted is not None and _loses_head(model, asked):
        swap_head(model, wanted)
    if asked.num_keypoints is not None and _loses_keypoints(model, asked):
        swap_keypoints(model, asked.num_keypoints)


def _meet(model: nn.Module, state: Mapping[str, torch.Tensor], asked: Asked) -> None:
    """Change ``model`` to fit a file of the user's own, which may know another head and other channels."""
    in_file = _classes_in(state, anatomy_of(model).main)
    if asked.head is not None:
        if _holds(state, model, asked.head):
            swap_head(model, asked.head)
    elif in_file and asked.num_classes in (None, in_file):
        swap_head(model, in_file)
    if asked.in_channels is not None and _has_another_stem(state, model):
        adapt_stem(model, asked.in_channels)


def _loses_head(model: nn.Module, asked: Asked) -> bool:
    """Whether the head that ``model`` has now has to go."""
    if asked.head is not None:
        return not _has_met_head(model)
    main = anatomy_of(model).main
    return asked.num_classes is not None and (main is None or main.num_classes != asked.num_classes)


def _has_met_head(model: nn.Module) -> bool:
    """Whether ``model`` was given the head of the user's own file before that was loaded."""
    return any(edit.verb == "swap_head" for edit in knowledge_of(model).edits)


def _loses_keypoints(model: nn.Module, asked: Asked) -> bool:
    """Whether the keypoint layer that ``model`` has now has to go."""
    if asked.num_keypoints is None:
        return False
    return getattr(model.get_submodule(keypoint_site(model)), "out_channels", None) != asked.num_keypoints


def _replaceable(model: nn.Module, asked: Asked) -> Iterator[str]:
    if _loses_head(model, asked):
        yield from (site.path for site in anatomy_of(model).heads)
    elif asked.head is not None:  # the file was asked for its main head only
        yield from (site.path for site in anatomy_of(model).heads if site.role != "main")
    if _loses_keypoints(model, asked):
        yield keypoint_site(model)


def _classes_in(state: Mapping[str, torch.Tensor], site: Head | None) -> int | None:
    """How many classes the head in a state dict has, when it is another number than the model's."""
    weight = state.get(f"{site.path}.weight") if site else None
    if weight is None or site is None or weight.dim() < 2 or weight.shape[0] % site.per_class:  # noqa: PLR2004 - out, in
        return None
    found = int(weight.shape[0]) // site.per_class
    return None if found == site.num_classes else found


def _holds(state: Mapping[str, torch.Tensor], model: nn.Module, head: HeadLike) -> bool:
    """Whether a state dict has the tensors of just such a head where the model has its own."""
    site = anatomy_of(model).main
    if site is None:
        return False
    with seeded(0, model):  # what is drawn here is thrown away
        wanted = fitted(model, site, head).state_dict()
    start = f"{site.path}."
    found = {name.removeprefix(start): tensor.shape for name, tensor in state.items() if name.startswith(start)}
    return found == {name: tensor.shape for name, tensor in wanted.items()}


def _has_another_stem(state: Mapping[str, torch.Tensor], model: nn.Module) -> bool:
    """Whether the first layers in a state dict have other shapes than the model's."""
    names = {f"{path}.weight": layer.weight for path, layer in stem_layers(model).items()}
    return any(name in state and state[name].shape != weight.shape for name, weight in names.items())
