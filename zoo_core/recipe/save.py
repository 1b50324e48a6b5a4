"""``zoo.save``: a model that surgery has changed, as safetensors and a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_core.contract.records import preprocessing_to_record
from zoo_core.errors import NotSupported, UsageError
from zoo_core.images.numbers import fitting, with_preprocessing
from zoo_core.recipe import state
from zoo_core.recipe.folder import check_target, write
from zoo_core.recipe.plain import to_plain
from zoo_core.recipe.proof import prove
from zoo_core.recipe.rebuild import edit_to_plain
from zoo_core.recipe.record import Recipe
from zoo_core.recipe.together import whole
from zoo_core.recipe.versions import versions_for
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import knowledge_of, unwrap
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.memory_format import is_channels_last
from zoo_core.utils.paths import expand

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from zoo_core.contract.card import Card, Preprocessing
    from zoo_core.surgery.metadata import Knowledge


@strict_arguments
def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
    custom_heads: bool = False,
) -> Path:
    """Save a model with all that surgery has done to it, for :func:`zoo_core.load` to bring back.

    The folder gets the tensors as safetensors, and ``recipe.json`` for people and programs: family and name, versions,
    the weights it began with, the constructor's options, every act of surgery, what is frozen, the mode of every
    module, the class names, and how pictures are prepared. Before anything is written, the model is built again from
    the recipe to prove that every module and tensor of it will be there.

    What no recipe holds is not saved: hooks, the optimizer, and that a batch norm is synchronised, which is for
    training only.

    Args:
        model: A model from ``zoo.get``, or one given to ``zoo.adopt`` with its name; DDP and ``torch.compile`` wrappers
            are looked through. On any device. One that ``fully_shard`` has sharded is gathered on the first process,
            which writes; every process has to call this, and all return or raise alike.
        folder: Where to. One that holds a save already changes over to the new one all at once.
        class_names: What the classes are called, in the order of the scores; None keeps what is known.
        preprocessing: How images are prepared, as for :func:`zoo_core.set_preprocessing`: a name of a model, or a
            :class:`~zoo_core.Preprocessing`; None keeps what is known.
        custom_heads: Save heads too that only their own code can build; ``zoo.load`` has to be given them then.

    Returns:
        The folder.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: It cannot be built again: it was adopted without a name, changed by hand, or has a head of its own
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
    known, target = knowledge_of(model), expand(folder)
    if preprocessing is not None:
        known = with_preprocessing(known, fitting(model, preprocessing))
    with whole(unwrap(model)) as bare:
        if bare is not None:  # another process has the whole tensors, and writes them
            _save(bare, known, target, class_names, custom_heads=custom_heads)
    return target


def _save(
    bare: nn.Module, known: Knowledge, target: Path, class_names: Sequence[str] | None, *, custom_heads: bool
) -> None:
    names = _class_names(known, class_names)
    card = _card(bare, known)
    check_target(target)
    tensors, ties = state.tensors_of(bare)
    recipe = Recipe(
        family=card.family,
        name=card.name,
        versions=versions_for(card.family),
        tensors={},
        weights=_origin(known),
        options={name: to_plain(value, f"the option {name!r}") for name, value in known.options.items()},
        edits=[edit_to_plain(edit) for edit in known.edits],
        frozen=state.frozen_in(bare),
        held=state.held_in(bare),
        switched=state.switched_in(bare),
        ties=ties,
        class_names=list(names),
        preprocessing=preprocessing_to_record(known.preprocessing),
        dtype=state.dtype_of(bare),
        channels_last=is_channels_last(bare),
        training=bare.training,
        registered=card.build if card.name in current_zoo().member(card.family).own else "",
    )
    prove(bare, known, recipe, custom=custom_heads)
    write(target, recipe, tensors)


def _class_names(known: Knowledge, said: Sequence[str] | None) -> tuple[str, ...]:
    names = known.class_names if said is None else tuple(said)
    if isinstance(said, str) or any(not isinstance(name, str) for name in names):
        raise UsageError(f"class_names cannot be {said!r}", expected="one string for each class")
    main = known.anatomy.main
    if said is not None and main is not None and len(names) != main.num_classes:
        raise UsageError(
            f"{len(names)} class names for {main.num_classes} scores", expected=f"{main.num_classes} names"
        )
    return names


def _card(model: nn.Module, known: Knowledge) -> Card:
    if known.card is None:
        raise NotSupported(
            f"zoo does not know how this {type(model).__name__} is built",
            cause="it was adopted without a name",
            hint='zoo.adopt(model, family="torchvision", name="resnet18") says it, before any surgery; '
            '@zoo.register("mine/net") over a class or function of your own gives it a name',
        )
    return known.card


def _origin(known: Knowledge) -> dict[str, Any]:
    """Where the model began: the tag, the source and the digest of its first weights."""
    if known.origin:
        return dict(known.origin)
    receipt = known.receipt
    found = {"tag": receipt.tag, "source": receipt.source, "sha256": receipt.sha256}
    return {name: value for name, value in found.items() if value}
