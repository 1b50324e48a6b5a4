"""``zoo.save``: a model that surgery has changed, as safetensors and a recipe."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import distributed, nn

from zoo_core.contract.card import Card, Preprocessing
from zoo_core.contract.card_file import preprocessing_to_record
from zoo_core.errors import NotSupported, UsageError, WeightsError, ZooWarning
from zoo_core.images.preprocessing import fitting, with_preprocessing
from zoo_core.recipe import state
from zoo_core.recipe.base_weights import first_weights, has_base, leave_out_base
from zoo_core.recipe.edits import edit_to_plain, to_plain
from zoo_core.recipe.proof import customs_in, proven
from zoo_core.recipe.record import Recipe, versions_for
from zoo_core.recipe.save_folder import check_target, write
from zoo_core.registry.register import is_own_code
from zoo_core.surgery.distributed import gathered, is_sharded
from zoo_core.surgery.fine_tuning.lora import lora_edits, without_copies
from zoo_core.surgery.fine_tuning.param_groups import warn_of_others
from zoo_core.surgery.head.scores import classes_by_head
from zoo_core.surgery.metadata import Metadata, metadata_of, unwrap
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.hooks import FORWARD, hooks_of
from zoo_core.utils.memory_format import is_channels_last
from zoo_core.utils.paths import expand


@contextmanager
def _unsharded(model: nn.Module) -> Iterator[nn.Module | None]:
    """The model that ``zoo.save`` writes: of a sharded one a twin with whole tensors in the first process, else None.

    Where the model is sharded the block is one for all processes: when the first fails in it, all raise.
    """
    if not is_sharded(model):
        yield model
        return
    writes = distributed.get_rank() == 0
    twin = gathered(model, keep=writes)
    failure: list[str | None] = [None]
    try:
        yield twin if writes else None
    except BaseException as error:
        failure = [str(error) or type(error).__name__]
        raise
    finally:
        distributed.broadcast_object_list(failure, src=0)
        if failure[0] and not writes:
            raise WeightsError(f"the first process could not save: {failure[0]}")


@strict_arguments
def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    preprocessing: Preprocessing | str | None = None,
    multi_label: bool | None = None,
    custom_heads: bool = False,
    with_base: bool | None = None,
) -> Path:
    """Save a model with all that surgery has done to it, for :func:`zoo_core.load` to bring back.

    The folder gets the tensors as safetensors, and ``recipe.json`` for people and programs: family and name, versions,
    the weights it began with, the constructor's options, every act of surgery, what is frozen, the mode of every
    module, the class names, and how images are prepared. Before anything is written, the model is built again from
    the recipe to prove that every module and tensor of it will be there.

    What was changed by hand is saved too, where layers of torch.nn were replaced, appended or taken out, or where the
    plain settings of a layer or the shape of a tensor were changed. So is a buffer that no state dict has
    (``persistent=False``), where its constructor would give it other values: one drawn at random, say.

    What no recipe holds is not saved: hooks, of which a warning says so, the optimizer, and that a batch norm is
    synchronised, which is for training only.

    Args:
        model: A model from ``zoo.get``, or one given to ``zoo.adopt`` with its name; DDP and ``torch.compile`` wrappers
            are looked through. Of a module around it the model alone is saved, and a warning says so where the module
            has parameters of its own. On any device. One that ``fully_shard`` has sharded is gathered on the first
            process, which writes; every process has to call this, and all return or raise alike.
        folder: Where to. One that holds a save already changes over to the new one all at once.
        class_names: What the classes are called, in the order of the scores, by head where there are several; in
            detectors and segmentation the first is the background, class 0. None keeps what is known.
        preprocessing: How images are prepared, as for :func:`zoo_core.set_preprocessing`: a name of a model, or a
            :class:`~zoo_core.Preprocessing`; None keeps what is known.
        multi_label: Whether an image has any number of the classes: :func:`zoo_core.predict` then gives those of at
            least 0.5, each by itself. None keeps what is known, which a new head ends where it has other classes.
        custom_heads: Save heads too that only their own code can build; ``zoo.load`` has to be given them then.
        with_base: False leaves out every tensor that is still as the published weights have it: ``zoo.load`` takes it
            from the cache. True writes all of them. None leaves them out of a model with LoRA adapters, where its
            published weights are in the cache.

    Returns:
        The folder.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: It cannot be built again: it was adopted without a name, or has a layer or a head of its own
            code; the message says which and what to do.
        UsageError: Other files are in the folder, or the class names are not as many as the scores, or
            the preprocessing not for as many channels as the model has.
        WeightsError: The folder cannot be written; what was there before is untouched.

    Example:
        >>> import tempfile, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=2, seed=0)
        >>> folder = zoo.save(model, tempfile.mkdtemp() + "/cats", class_names=["cat", "dog"])
        >>> zoo.class_names(zoo.load(folder))
        ('cat', 'dog')
    """
    known, target = metadata_of(model), expand(folder)
    if multi_label is not None:
        known = replace(known, multi_label=multi_label)
    if preprocessing is not None:
        known = with_preprocessing(known, fitting(model, preprocessing))
    warn_of_others(model, unwrap(model), "are not saved", "save the state dict of the whole module beside it")
    with _unsharded(unwrap(model)) as bare:
        if bare is not None:  # another process has the whole tensors, and writes them
            _save(bare, known, target, class_names, custom_heads=custom_heads, with_base=with_base)
    return target


def _warn_of_hooks(model: nn.Module) -> None:
    """Warn of hooks in a model to save that run with its forward pass, for they may change what it gives.

    Warns:
        ZooWarning: There are such; the modules are named.
    """
    if hooked := [path or "the model" for path, each in model.named_modules() if hooks_of(each, FORWARD)]:
        warnings.warn(
            f"the hooks on {', '.join(hooked[:5])} are not saved: where one changes what its layer gives, the loaded "
            "model gives something else",
            ZooWarning,
            stacklevel=5,
        )


def _save(
    bare: nn.Module,
    known: Metadata,
    target: Path,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None,
    *,
    custom_heads: bool,
    with_base: bool | None,
) -> None:
    """Write the folder of a save, once its recipe is proven."""
    names = _class_names(bare, known, class_names)
    card = _card(bare, known)
    check_target(target)
    adapters = lora_edits(bare)
    bare = without_copies(bare)
    known = replace(known, edits=(*(edit for edit in known.edits if edit.verb != "add_lora"), *adapters))
    tensors, ties = state.tensors_of(bare)
    recipe = _recipe_of(bare, known, card, names, ties)
    recipe, twin = proven(bare, known, recipe, custom=custom_heads)
    if buffers := state.other_buffers(bare, twin, recipe.dtype):
        tensors, recipe = tensors | buffers, replace(recipe, tensors={**recipe.tensors, "buffers": [*buffers]})
    _warn_of_hooks(bare)
    is_custom = any(True for edit in known.edits for value in edit.arguments.values() for _ in customs_in(value))
    if with_base is False and is_custom:
        raise NotSupported(
            "what published weights have cannot be left out beside a head of its own code",
            cause="which tensors those are is found by building the model again",
            done="nothing was written",
            hint="zoo.save(..., custom_heads=True, with_base=True) writes all tensors",
        )
    if with_base is False or (with_base is None and adapters and not is_custom and has_base(recipe)):
        recipe, tensors = leave_out_base(recipe, tensors, known.options)
    write(target, recipe, tensors)


def _recipe_of(bare: nn.Module, known: Metadata, card: Card, names: Sequence[str], ties: Mapping[str, str]) -> Recipe:
    """The recipe of a model that is saved."""
    return Recipe(
        family=card.family,
        name=card.name,
        versions=versions_for(card.family),
        tensors={"multi_label": True} if known.multi_label else {},
        weights=first_weights(known),
        options={name: to_plain(value, f"the option {name!r}") for name, value in known.options.items()},
        edits=[edit_to_plain(edit) for edit in known.edits],
        frozen=state.frozen_in(bare),
        held=state.held_in(bare),
        switched=state.switched_in(bare),
        ties=dict(ties),
        class_names=list(names),
        preprocessing=preprocessing_to_record(known.preprocessing),
        dtype=state.dtype_of(bare),
        channels_last=is_channels_last(bare),
        training=bare.training,
        registered=card.build if is_own_code(card) else "",
    )


def _class_names(
    model: nn.Module, known: Metadata, said: Sequence[str] | Mapping[str, Sequence[str]] | None
) -> tuple[str, ...]:
    """The class names to save, checked against the number of scores."""
    if isinstance(said, Mapping):
        said = _names_in_a_row(classes_by_head(model, known.anatomy.main), said)
    names = known.class_names if said is None else tuple(said)
    if isinstance(said, str) or any(not isinstance(name, str) for name in names):
        raise UsageError(f"class_names cannot be {said!r}", expected="one string for each class")
    main = known.anatomy.main
    if said is not None and main is not None and len(names) != main.num_classes:
        lacks = len(names) == main.num_classes - 1 and known.card is not None and known.card.task != "classification"
        raise UsageError(
            f"{len(names)} class names for {main.num_classes} scores",
            expected=f"{main.num_classes} names",
            cause="class 0 of detectors and of segmentation is the background" if lacks else None,
            hint="give the background a name too, the first" if lacks else None,
        )
    return names


def _names_in_a_row(counts: Mapping[str, int], said: Mapping[str, Sequence[str]]) -> list[str]:
    """Class names that ``zoo.save`` writes for several heads, in the order of their scores; embeddings have none."""
    needed = {head: count for head, count in counts.items() if count}
    got = {head: len(names) for head, names in said.items() if len(names)}
    if got != needed or any(isinstance(names, str) for names in said.values()):
        expected = ", ".join(f"{count} for {head!r}" for head, count in needed.items())
        raise UsageError(
            f"class_names cannot be {said!r}", expected=f"a list by head: {expected}" if counts else "a list of names"
        )
    return [name for head in needed for name in said[head]]


def _card(model: nn.Module, known: Metadata) -> Card:
    """The card of the model that is saved; refused where it has none."""
    if known.card is None:
        raise NotSupported(
            f"zoo does not know how this {type(model).__name__} is built",
            cause="it was adopted without a name",
            hint='zoo.adopt(model, family="torchvision", name="resnet18") says it, before any surgery; '
            '@zoo.register("mine/net") over a class or function of your own gives it a name',
        )
    return known.card
