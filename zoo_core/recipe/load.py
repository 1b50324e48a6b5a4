"""``zoo.load``: a saved model as it was, proven and without pickle."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_core.build.place import place
from zoo_core.contract.card import Preprocessing
from zoo_core.contract.card_file import preprocessing_from_record
from zoo_core.errors import NotSupported, UnknownPart, Unreadable, UsageError
from zoo_core.recipe import state
from zoo_core.recipe.base_weights import entry_begun_with, names_in, rebuild_on_base_weights
from zoo_core.recipe.edits import holds_custom
from zoo_core.recipe.rebuild import Limit, card_of, following, rebuild
from zoo_core.recipe.record import FILE, Recipe, warn_of_others
from zoo_core.recipe.save_folder import read_recipe, read_tensors
from zoo_core.registry.register import is_own_code
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.load_state_dict import load_state, warn_of_nonfinite
from zoo_core.surgery.metadata import Metadata, attach, metadata_of, unwrap
from zoo_core.surgery.receipt import Receipt
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.device import default_device, usable_device
from zoo_core.utils.paths import expand
from zoo_core.weights.hub_folder import fetch_folder, is_hub_name


@strict_arguments
def load(
    folder: str | os.PathLike[str],
    *,
    heads: Mapping[str, nn.Module] | None = None,
    options: Mapping[str, object] | None = None,
    device: str | torch.device | None = None,
) -> nn.Module:
    """A model that :func:`zoo_core.save` saved, as it was: the same class, keys, values, ties, frozen parts and mode.

    It is built by its library and cut by zoo as the recipe says, and then every tensor is loaded and checked. Nothing
    is fetched, nothing is unpickled, and no file is opened but the folder's own. What a recipe can call, make and set
    is written in tables: some verbs of surgery, the layers of torch, and those options of a constructor that say what
    the architecture is. So the folder may come from a stranger.

    Args:
        folder: Where it was saved; or ``hf://owner/name@revision`` for one that was shared on the Hugging Face hub
            (``zoo-core[hub]``), which alone makes this fetch something.
        heads: Modules for the heads that only their own code can build, by name; ``"main"`` where there is only one.
        options: Arguments of the library's constructor that you vouch for, where the recipe has some that a folder may
            not set.
        device: Where the model goes, as torch spells it; None for torch's default device, which is the CPU unless you
            set another.

    Returns:
        The model.

    Raises:
        Unreadable: The folder is no save, or is damaged, or a newer zoo wrote it.
        DigestMismatch: The tensors are not those that were saved.
        LoadMismatch: They do not fit what the recipe makes here.
        UnknownFamily: No plugin here contributes the model's family.
        UnknownModel: The family has no model of that name here.
        FamilyUnavailable: The library of its family is not installed.
        UsageError: A head has to be given and is not, or is given and not needed; what is named is a url; or this
            machine has no such device.
        WeightsError: The save leaves out what published weights have, and they are not in the cache.

    Warns:
        ZooWarning: The family's library or plugin is of another version than the model was saved with, or numbers in
            the save are nan or infinite.

    Example:
        >>> import tempfile, torch, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=9, in_channels=3, seed=0).eval()
        >>> x = torch.zeros(1, 3, 32, 32)
        >>> torch.equal(zoo.load(zoo.save(model, tempfile.mkdtemp()))(x), model(x))
        True
    """
    if not is_hub_name(folder) and "://" in str(folder):
        raise UsageError(f"{folder} is a url, and a save is a folder", hint="its path, or hf://owner/name")
    home = default_device() if device is None else usable_device(device)
    source = fetch_folder(str(folder)) if is_hub_name(folder) else expand(folder)
    recipe = read_recipe(source / FILE)
    tensors = read_tensors(source, recipe)
    card = card_of(recipe)  # before its versions are compared, since there may be no such family
    warn_of_others(recipe, stacklevel=4)
    _check_heads(recipe, heads or {})
    build = rebuild_on_base_weights if recipe.from_base else rebuild
    limit = Limit(recipe.id, tensors, own_code=bool(heads) or is_own_code(card))
    with torch.inference_mode(mode=False):  # else it could never be trained
        model = build(recipe, heads or {}, options=options or {}, limit=limit)
        bare = unwrap(model)  # an encoder has its body inside
        with following(recipe):
            _fill(bare, recipe, tensors, source)
            _restore(bare, recipe)
            _tell(bare, recipe, source)
        model.training = bare.training
        return place(model, home)


def _tell(model: nn.Module, recipe: Recipe, source: Path) -> None:
    """Give the loaded model its receipt, and what the save knows beside its tensors."""
    known = metadata_of(model)
    receipt = Receipt(
        recipe.id,
        tag=recipe.weights.get("tag"),
        source=str(source),
        path=str(source / recipe.tensors["file"]),
        sha256=recipe.tensors["sha256"],
        strength="as saved",  # the digest is the folder's own: it shows damage, and nothing else
        tensors=dict.fromkeys(model.state_dict(), "loaded"),
        notes=dict.fromkeys(sorted(names_in(recipe, model)), f"from the weights {recipe.weights.get('tag')!r}"),
        needed_values=known.receipt.needed_values,
    )
    weights = entry_begun_with(known.card, recipe.weights.get("tag"))
    names = _loaded_class_names(recipe, known, source)
    preprocessing = _loaded_preprocessing(recipe, model, known, source)
    attach(
        model,
        replace(
            known,
            receipt=receipt,
            weights=weights,
            names=names,
            origin=recipe.weights,
            own_preprocessing=preprocessing,
            multi_label=recipe.multi_label,
        ),
    )


def _loaded_class_names(recipe: Recipe, known: Metadata, source: Path) -> tuple[str, ...]:
    """Class names in the recipe to load; with more or fewer than scores, each score would have another's name."""
    main = known.anatomy.main
    if recipe.class_names and main is not None and len(recipe.class_names) != main.num_classes:
        raise Unreadable(
            f"the save {source} names {len(recipe.class_names)} classes, and its model has {main.num_classes} scores",
            hint="take another copy of it, or correct class_names in its recipe.json",
        )
    return tuple(recipe.class_names)


def _loaded_preprocessing(recipe: Recipe, model: nn.Module, known: Metadata, source: Path) -> Preprocessing | None:
    """Preprocessing of a saved model for ``zoo.load``; its numbers have to be as many as the channels."""
    result = preprocessing_from_record(recipe.preprocessing)
    if result is None:
        return None
    channels = {example_input(model).shape[1], *(known.card.input_size[:1] if known.card else ())}
    means, stds = len(result.mean), len(result.std)
    are_numbers = all(map(math.isfinite, result.mean + result.std)) and 0 not in result.std
    if means != stds or means not in channels or not are_numbers:
        raise Unreadable(
            f"the save {source} prepares images with {means} means and {stds} stds, which its model cannot take",
            expected=f"{' or '.join(map(str, sorted(channels)))} of each",
            hint="take another copy of it, or correct preprocessing in its recipe.json",
        )
    return result


def _check_heads(recipe: Recipe, heads: Mapping[str, nn.Module]) -> None:
    """Refuse the ``heads=`` of ``zoo.load`` where the recipe says how to build every head."""
    if heads and not any(holds_custom(edit) for edit in recipe.edits):
        raise UsageError(
            f"{recipe.id} needs no heads, and was given {', '.join(heads)}",
            cause="the recipe says how to build every one",
            hint="leave heads= out, and change the head afterwards with zoo.swap_head",
        )


def _fill(model: nn.Module, recipe: Recipe, tensors: dict[str, Tensor], source: Path) -> None:
    """Give a saved model its tensors for ``zoo.load``, in the dtype and memory format that they had."""
    state.match_dtypes(model, tensors, recipe.dtype)
    if recipe.channels_last:
        place(model, channels_last=True)
    if strange := sorted(set(recipe.ties.values()) - set(tensors)):
        raise Unreadable(f"the save {source} ties tensors to others that are not there", got=", ".join(strange))
    if strange := state.restore_buffers(model, tensors, recipe.buffers):
        raise Unreadable(f"the save {source} has buffers that its model does not have", got=", ".join(strange))
    values = {**tensors, **{name: tensors[other] for name, other in recipe.ties.items()}}
    load_state(model, values, absent=names_in(recipe, model), source=str(source / recipe.tensors["file"]))
    warn_of_nonfinite(model, values, str(source), stacklevel=4)
    state.tie(model, recipe.ties)


def _restore(model: nn.Module, recipe: Recipe) -> None:
    """Freeze, hold and set the modes in the loaded model as its recipe says."""
    try:
        state.restore(model, recipe)
    except UnknownPart as error:
        raise NotSupported(f"what {recipe.id} had frozen is not there", got=error.summary) from error
