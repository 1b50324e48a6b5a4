"""From a card to a model: the library's own constructor, with values or without, and what zoo knows of what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from zoo_core.build.skip_init import without_values
from zoo_core.contract.anatomy import Anatomy
from zoo_core.contract.card import Card
from zoo_core.errors import FamilyUnavailable, UsageError, ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import Metadata, attach
from zoo_core.surgery.receipt import Outcome, Receipt
from zoo_core.tracing.trace import trace

if TYPE_CHECKING:
    from zoo_core.registry.families import Member


def construct(
    card: Card, options: Mapping[str, object], *, own: Mapping[str, object] | None = None, values: bool = True
) -> nn.Module:
    """Call the library's own constructor, and make the model carry what zoo knows of it.

    A constructor that needs the values of its parameters, because its card says so or because it fails without them,
    draws them whether they are needed or not; the receipt says why.

    Args:
        card: What to build.
        options: All that the constructor is given.
        own: Those of them that the user chose, to be named in an error.
        values: Whether to draw initial values; without them every parameter has to be loaded afterwards, and the
            receipt names none.

    Raises:
        FamilyUnavailable: The library is missing, or too different from what the plugin knows.
        UsageError: The constructor refuses the user's options.
        AnatomyError: The family cannot say where its parts are, or it does not run on its own input.
    """
    member = current_zoo().available(card)
    needed = "" if values else card.needs_values
    model = None if values or needed else _without_values(card, options)
    if model is None:
        model = _call(card, options, own)
        needed = needed or ("" if values else "its constructor fails without them")
    if not isinstance(model, nn.Module):
        raise FamilyUnavailable(
            f"{card.id} cannot be built: {card.build} returns a {type(model).__name__}, and no torch.nn.Module",
            got=f"{model!r:.80}",
            hint="a function of the plugin can call it, and return the model alone",
            family=card.family,
        )
    tensors: dict[str, Outcome] = dict.fromkeys(model.state_dict(), "initialized") if values else {}
    receipt = Receipt(card.id, tensors=tensors, needed_values=needed)
    known = Metadata(anatomy_for(member, card, model, options), receipt, card, options=options)
    if registered := member.own.get(card.name):
        names, numbers, example = registered.class_names, registered.preprocessing, registered.example
        known = replace(known, names=names, own_preprocessing=numbers, example=example)
    attach(model, known)
    return model


def anatomy_for(
    member: Member, card: Card | None, model: nn.Module, options: Mapping[str, object] | None = None
) -> Anatomy:
    """The anatomy of a model that zoo builds: as it was registered, as its family declares it, or else by ``trace``.

    Args:
        member: Its family.
        card: What it was built from.
        model: As its constructor made it.
        options: What the constructor was given, which may make the model one of other images than the card says.

    Raises:
        AnatomyError: A trace cannot run it, or does not prove what its family named.
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


def _without_values(card: Card, options: Mapping[str, object]) -> nn.Module | None:
    """The model constructed with uninitialized parameters; None when its constructor fails, for whatever reason."""
    try:
        constructor = current_zoo().member(card.family).builder(card)
        with without_values():
            return cast("nn.Module", constructor(**options))
    except Exception:  # noqa: BLE001 - the ordinary way comes next, and says what is wrong if something is
        return None


def _call(card: Card, options: Mapping[str, object], own: Mapping[str, object] | None) -> nn.Module:
    """Call the constructor of a card's library; where that fails, the error says the likely cause."""
    try:
        constructor = current_zoo().member(card.family).builder(card)
    except Exception as error:
        requires = current_zoo().member(card.family).family.requires
        raise FamilyUnavailable(
            f"{card.id} cannot be built: {card.build} does not import",
            got=f"{type(error).__name__}: {error}",
            cause="the installed library is broken, or of another version than the plugin knows",
            hint=f"pip install -U {requires}" if requires else f"reinstall the plugin of family {card.family!r}",
            family=card.family,
        ) from error
    try:
        return cast("nn.Module", constructor(**options))
    except ZooError:  # the plugin's own, which says more
        raise
    except Exception as error:
        if own:
            raise UsageError(
                f"{card.build} refuses the options {', '.join(f'{name}={value!r}' for name, value in own.items())}",
                got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                hint="they are the arguments of that constructor, as its library documents them",
                options=dict(own),
            ) from error
        is_own = card.name in current_zoo().member(card.family).own
        raise FamilyUnavailable(
            f"{card.id} cannot be built: its constructor fails",
            got=f"{type(error).__name__}: {error}",
            cause="it is called without arguments"
            if is_own
            else "the installed library is of another version than the plugin knows",
            hint="register a function that gives them: zoo.register(name)(lambda: Net(64))" if is_own else None,
            family=card.family,
        ) from error


def as_published(card: Card) -> nn.Module:
    """Construct the model of a card as its default weights have it, without values.

    Raises:
        ZooError: It cannot be built here.

    Example:
        >>> from zoo_core.registry.zoo import current_zoo
        >>> as_published(current_zoo().resolve("tiny/glyphnet")[0]).fc.weight.device.type
        'meta'
    """
    entry = next((each for each in card.weights if each.tag == card.default), None)
    options = {**card.options, **(entry.options if entry else {})}
    try:
        with torch.device("meta"):
            return construct(card, options, values=True)
    except Exception:  # noqa: BLE001 - some constructors compute with numbers, which the meta device has not
        return construct(card, options, values=False)
