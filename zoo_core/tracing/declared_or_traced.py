"""The anatomy of a model that zoo builds: as it was registered, as its family declares it, or else traced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from zoo_core.surgery.metadata import Metadata
from zoo_core.tracing.trace import trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from zoo_core.contract.anatomy import Anatomy
    from zoo_core.contract.card import Card
    from zoo_core.registry.families import Member
    from zoo_core.surgery.receipt import Receipt


def metadata_for(
    member: Member, card: Card, model: nn.Module, receipt: Receipt, options: Mapping[str, object]
) -> Metadata:
    """The metadata of a new model, with its anatomy declared or traced.

    Args:
        member: Its family.
        card: What it was built from.
        model: As its constructor made it.
        receipt: What happened to its tensors.
        options: What the constructor was given.

    Raises:
        AnatomyError: The family cannot say where its parts are, or it does not run on its own input.
    """
    known = Metadata(anatomy_for(member, card, model, options), receipt, card, options=options)
    own = member.own.get(card.name)
    if own is None:
        return known
    return replace(known, names=own.class_names, own_preprocessing=own.preprocessing, example=own.example)


def anatomy_for(
    member: Member, card: Card | None, model: nn.Module, options: Mapping[str, object] | None = None
) -> Anatomy:
    """The anatomy of a model that zoo builds: as it was registered, as its family declares it, or traced.

    Args:
        member: Its family.
        card: What it was built from.
        model: As its constructor made it.
        options: What the constructor was given, which may make the model one of other images than the card says.

    Raises:
        AnatomyError: As above.
    """
    own = member.own.get(card.name) if card else None
    if own is not None and own.anatomy is not None:
        return own.anatomy
    if member.family.anatomy is not None or card is None:
        return member.anatomy(model)
    example: Any = own.example if own else None
    if example is None:
        side = {**card.options, **(options or {})}.get(member.family.image_size)
        sides = (side, side) if isinstance(side, int) else tuple(cast("Any", side or card.input_size[1:]))
        example = torch.zeros(1, card.input_size[0], *sides, device="cpu")
    return trace(model, example, head=own.head if own else None, stages=own.stages if own else None).anatomy
