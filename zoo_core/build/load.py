"""Giving a built model its weights, and then the head, stem and keypoints that were requested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from zoo_core.contract.card import Weights
from zoo_core.surgery.head.swap import keypoint_site, swap_head, swap_keypoints
from zoo_core.surgery.load_state_dict import is_packed, load_packed, load_state, packed_state_in
from zoo_core.surgery.metadata import anatomy_of, attach, metadata_of
from zoo_core.surgery.receipt import Outcome, Receipt
from zoo_core.surgery.stem.adapt import adapt_stem
from zoo_core.weights.cache.converted import state_dict_of
from zoo_core.weights.checkpoint.read import may_hold_more, read_whole

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo_core.build.request import ModelRequest
    from zoo_core.weights import Artefact


def fill(model: nn.Module, known: Weights, artefact: Artefact, request: ModelRequest) -> None:
    """Load a published file into ``model``, and write its receipt.

    Args:
        model: As its constructor made it.
        known: The entry of the card that the file is.
        artefact: The file.
        request: What will be replaced anyway, and so need not fit.

    Raises:
        Unreadable: The file is not weights.
        LoadMismatch: A tensor that is not replaced does not fit.
    """
    outcomes = (_load_packed if is_packed(model) else _load)(model, known, artefact, request)
    receipt = Receipt(
        metadata_of(model).receipt.model,
        known.tag,
        artefact.source,
        str(artefact.path),
        artefact.sha256,
        artefact.strength,
        outcomes,
        needed_values=metadata_of(model).receipt.needed_values,
    )
    attach(model, replace(metadata_of(model), receipt=receipt, weights=known))


def fill_with_nothing(model: nn.Module) -> None:
    """Load nothing: write the receipt of an untrained model whose values are replaced before use, not drawn."""
    known = metadata_of(model)
    attach(model, replace(known, receipt=known.receipt.with_new((), model.state_dict())))


def fill_packed(model: nn.Module, artefact: Artefact) -> None:
    """Load a file of the user's own into a quantised ``model``, and write its receipt.

    Raises:
        Unreadable: The file is not weights.
        LoadMismatch: Something does not fit.
    """
    state = packed_state_in(read_whole(artefact.path)[0], artefact.path)
    outcomes = load_packed(model, state, source=artefact.path.name)
    known = metadata_of(model)
    receipt = replace(
        known.receipt, tensors=outcomes, source=artefact.source, path=str(artefact.path), strength="local"
    )
    attach(model, replace(known, receipt=receipt, weights=None))


def _load(model: nn.Module, known: Weights, artefact: Artefact, request: ModelRequest) -> dict[str, Outcome]:
    """Load a published file into a built model, and say what became of each tensor."""
    return load_state(
        model,
        _state_of(artefact, known, model),
        ignore=known.ignore,
        absent=known.absent,
        replaceable=[*_replaceable(model, request)],
        source=artefact.path.name,
        # a file outside the cache may be written to again while the model lives, so it is copied and not mapped
        assign=artefact.strength != "local",
    )


def _load_packed(model: nn.Module, known: Weights, artefact: Artefact, _: ModelRequest) -> dict[str, Outcome]:
    """Load a quantised model, of which nothing can be replaced: its layers read and pack what the file holds."""
    state = packed_state_in(read_whole(artefact.path)[0], artefact.path)
    if known.convert:
        state = resolve_name(known.convert)(state, model)
    return load_packed(model, state, ignore=known.ignore, source=artefact.path.name)


def _state_of(artefact: Artefact, known: Weights, model: nn.Module) -> Mapping[str, torch.Tensor]:
    """What is in the file to load, under the names of the model."""
    if known.convert is None:
        return state_dict_of(artefact)
    convert: Callable[[object, nn.Module], Mapping[str, torch.Tensor]] = resolve_name(known.convert)
    whole = known.whole and may_hold_more(artefact.path)
    return convert(read_whole(artefact.path)[0] if whole else state_dict_of(artefact), model)


def operate(model: nn.Module, request: ModelRequest, *, has_head: bool = False) -> None:
    """Give a loaded ``model`` the stem, head and keypoints that were requested; ``has_head`` where it has that head."""
    if request.in_channels is not None:
        adapt_stem(model, request.in_channels)
    if not has_head and loses_head(model, request):
        swap_head(model, request.new_head)
    if request.num_keypoints is not None and _loses_keypoints(model, request):
        swap_keypoints(model, request.num_keypoints)


def loses_head(model: nn.Module, request: ModelRequest) -> bool:
    """Whether the head that ``model`` has when its weights are loaded has to go afterwards."""
    if request.head is not None:
        return True
    main = anatomy_of(model).main
    if main is None:
        return request.num_classes is not None
    return request.num_classes not in (None, main.num_classes)


def _loses_keypoints(model: nn.Module, request: ModelRequest) -> bool:
    """Whether the keypoint layer that ``model`` has when its weights are loaded has to go afterwards."""
    if request.num_keypoints is None:
        return False
    return getattr(model.get_submodule(keypoint_site(model)), "out_channels", None) != request.num_keypoints


def _replaceable(model: nn.Module, request: ModelRequest) -> Iterator[str]:
    """Paths of the layers that are replaced after loading, so that the file need not have them."""
    if loses_head(model, request):
        yield from (site.path for site in anatomy_of(model).heads)
    if _loses_keypoints(model, request):
        yield keypoint_site(model)
