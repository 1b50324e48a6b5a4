"""Saves that leave out what their base weights have: which tensors those are, and where they come from again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.build.load import fill
from zoo_core.build.request import ModelRequest
from zoo_core.contract.card import Card, Weights
from zoo_core.errors import NotSupported, UnknownTag, Unreadable, WeightsError
from zoo_core.recipe.rebuild import Limit, card_of, rebuild
from zoo_core.recipe.record import FORMAT, Recipe
from zoo_core.recipe.state import covering
from zoo_core.surgery.metadata import Metadata, metadata_of
from zoo_core.weights.cache.refs import read_ref
from zoo_core.weights.cache.store import Cache, Entry
from zoo_core.weights.proven_file import obtain
from zoo_core.weights.transport.urls import needs_network

if TYPE_CHECKING:
    from zoo_core.weights import Artefact


def leave_out_base(
    recipe: Recipe, tensors: Mapping[str, Tensor], options: Mapping[str, object]
) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe and the tensors of a save without what its base weights have: published ones, which it began with.

    Raises:
        NotSupported: It began with no published weights, or they are no longer here.
    """
    names = _same_as_base(recipe, tensors, options) - {*recipe.ties.values()}
    every = {*tensors, *recipe.ties}
    kept = {name: tensor for name, tensor in tensors.items() if name not in names}
    return replace(recipe, from_base=covering(names, every), format=FORMAT), kept


def _same_as_base(recipe: Recipe, tensors: Mapping[str, Tensor], options: Mapping[str, object]) -> set[str]:
    """Names of the tensors that a save can leave out, since its base weights have them too, bit for bit."""
    if result := _published_file(recipe):
        twin = rebuild(recipe, options=options, filled=_filler(*result))
        values = twin.state_dict()
        return {name for name in _loaded(twin) & tensors.keys() if _is_same(values[name], tensors[name])}
    raise NotSupported(
        f"what {recipe.id} began with cannot be left out of the save",
        expected="a model that zoo.get loaded with published weights, which are still in the cache",
        got=f"one that began with {recipe.weights.get('source') or 'no weights'}",
        done="nothing was written",
        hint="zoo.save(..., with_base=True) writes all tensors",
    )


def has_base(recipe: Recipe) -> bool:
    """Whether the base weights of a model, which are the published ones that it began with, are here."""
    return _published_file(recipe) is not None


def rebuild_on_base_weights(
    recipe: Recipe, heads: Mapping[str, nn.Module], options: Mapping[str, object], limit: Limit
) -> nn.Module:
    """Rebuild a model from a recipe and its base weights: the published ones that it began with.

    Nothing is fetched: they have to be here.

    Raises:
        WeightsError: They are not.
        Unreadable: They do not hold all that the save leaves out.
    """
    result = _published_file(recipe)
    if result is None:
        tag = recipe.weights.get("tag", "")
        raise WeightsError(
            f"the save of {recipe.id} leaves out what its weights {tag!r} have, and they are not in the cache",
            expected=f"the file of SHA-256 {recipe.weights.get('sha256')}",
            done="nothing was loaded, and nothing fetched: only zoo.get does that",
            hint=f'zoo.get("{recipe.id}@{tag}") fetches them; zoo.save(..., with_base=True) leaves nothing out',
        )
    model = rebuild(recipe, heads, options=options, filled=_filler(*result), limit=limit)
    if lacking := sorted(names_in(recipe, model) - _loaded(model)):
        raise Unreadable(
            f"the save of {recipe.id} leaves out tensors that its weights do not have",
            got=", ".join(lacking[:4]),
            cause="recipe.json was changed by hand",
        )
    return model


def names_in(recipe: Recipe, model: nn.Module) -> set[str]:
    """Names of the tensors of ``model`` that a save of it left out, since its base weights have them."""
    prefixes = tuple(f"{each}." for each in recipe.from_base)
    return {name for name in model.state_dict() if name in recipe.from_base or name.startswith(prefixes)}


def _published_file(recipe: Recipe) -> tuple[Weights, Artefact] | None:
    """Weights entry and file of the base weights of a saved model, where they are here."""
    card, digest = card_of(recipe), recipe.weights.get("sha256", "")
    try:
        entry = card.find(recipe.weights.get("tag", ""))
    except UnknownTag:
        return None
    if not any(needs_network(url) for url in entry.urls):
        artefact: Artefact | None = obtain(card, entry)
    else:
        cache = Cache()
        path = cache.ref_path(card.family, card.name, entry.tag)
        ref = read_ref(path)
        ref = ref if ref and cache.vouches_for(ref) else None
        # a digest that is only the recipe's would become the pin of these weights
        is_pinned = digest in (ref.sha256 if ref else "", entry.sha256)
        artefact = (
            Entry(cache, path, ref if ref and ref.sha256 == digest else None).find(digest, "proven")
            if is_pinned
            else None
        )
    return (entry, artefact) if artefact and artefact.sha256 == digest else None


def _filler(entry: Weights, artefact: Artefact) -> Callable[[nn.Module], None]:
    return lambda model: fill(model, entry, artefact, ModelRequest())


def _loaded(model: nn.Module) -> set[str]:
    return set(metadata_of(model).receipt.names("loaded"))


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device))


def first_weights(known: Metadata) -> dict[str, Any]:
    """What a recipe says of the base weights, which a model began with: their tag, source and digest."""
    if known.origin:
        return dict(known.origin)
    receipt = known.receipt
    result = {"tag": receipt.tag, "source": receipt.source, "sha256": receipt.sha256}
    return {name: value for name, value in result.items() if value}


def entry_begun_with(card: Card | None, tag: str | None) -> Weights | None:
    """The entry of the base weights that a saved model began with, if the plugin here still knows it."""
    try:
        return card.find(tag) if card and tag else None
    except UnknownTag:
        return None
