"""``zoo.get``: resolve, fetch, build, load, operate, place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from zoo_core.card import Card, Weights
from zoo_core.construct import construct
from zoo_core.errors import UsageError
from zoo_core.registry import current_zoo
from zoo_core.surgery.checks import check_count, check_num_classes, strict_arguments
from zoo_core.surgery.freeze import freeze as freeze_parts
from zoo_core.surgery.head import seeded, swap_head
from zoo_core.surgery.knowledge import anatomy_of, attach, knowledge_of
from zoo_core.surgery.loading import load_state
from zoo_core.surgery.receipt import Receipt
from zoo_core.surgery.stem import adapt_stem, stem_layers
from zoo_core.weights import obtain, obtain_file, read_state_dict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo_core.parts import Head
    from zoo_core.surgery.sites import HeadLike
    from zoo_core.weights import Artefact

_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".safetensors")

Freeze = str | Sequence[str] | Mapping[str, Any]


@strict_arguments
def get(
    name: str,
    *,
    num_classes: int | None = None,
    head: HeadLike | None = None,
    in_channels: int | None = None,
    weights: str | os.PathLike[str] | None = "default",
    freeze: Freeze | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
    trust: str | None = None,
    licenses: Sequence[str] | None = None,
    progress: bool | None = None,
) -> nn.Module:
    """Any model of any installed family: fetched, verified, built, loaded, and given the head that you need.

    The result is the library's own module, of the same class and with the same state-dict keys outside the head, in
    train mode as its library makes it.

    Args:
        name: ``family/name@tag``, with family and tag optional.
        num_classes: Scores of the head. The pretrained head stays when it has that many already, or when this is None.
        head: A module or a ``zoo.mlp_head(...)`` to put in the place of the head, instead of ``num_classes``; or a dict
            of these and of numbers, for a model that returns a dict of scores.
        in_channels: Channels of the pictures, for another number than the model has: the pretrained filters are kept as
            :func:`zoo_core.adapt_stem` does by default, which has other ways to do it too.
        weights: ``"default"``, a tag, the path of a file of your own, or None for an untrained model.
        freeze: What :func:`zoo_core.freeze` is to freeze: ``"backbone"``, a list of names and patterns, or a mapping of
            its arguments such as ``{"until": "layer4"}``.
        device: Where the model goes, as torch spells it.
        dtype: What its floating-point tensors become.
        seed: Makes all that is drawn at random reproducible, without touching the global random state.
        options: Arguments for the library's own constructor, over those that the card and the weights ask for.
        trust: ``"first-use"`` accepts weights whose digest nobody published; it is pinned from then on.
        licenses: The licences that are acceptable; anything else is refused before it is downloaded.
        progress: Whether to show a progress bar while downloading; None shows one on a terminal.

    Raises:
        UnknownModel: No family has it; close matches are listed.
        UnknownTag: The model has no such weights.
        UsageError: Another argument is impossible; the message says what is possible.
        HeadMismatch: The head does not take what its site gives.
        NotSupported: The model cannot have another number of channels, or another head.
        FamilyUnavailable: The library of the family is not installed.
        WeightsError: The weights could not be had, trusted or loaded; nothing unproven is left behind.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone", seed=0)
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['fc.weight', 'fc.bias']
    """
    _check_arguments(num_classes, head, in_channels)
    card, tag = current_zoo().resolve(name)
    chosen = _choose(card, tag, weights)
    current_zoo().available(card)
    artefact = _fetch(card, chosen, trust, licenses, progress=progress)
    with seeded(seed):
        model = construct(card, _options(card, chosen, options), own=options, values=artefact is None)
        if artefact is not None:
            _load(model, chosen, artefact, num_classes, in_channels, new_head=head is not None)
        _operate(model, num_classes, head, in_channels, freeze)
    return model.to(device=device, dtype=dtype)


def _check_arguments(num_classes: int | None, head: object, in_channels: int | None) -> None:
    if in_channels is not None:
        check_count("in_channels", in_channels)
    if num_classes is not None:
        check_num_classes(num_classes)
    if head is not None and num_classes is not None:
        raise UsageError(
            "num_classes and head both say what the head is", hint="leave num_classes out: the head has its own"
        )


def _choose(card: Card, tag: str | None, weights: object) -> Weights | Path | None:
    """What ``weights=`` and the tag of the name mean together."""
    if tag and weights != "default":
        raise UsageError(
            f"the name asks for the weights {tag!r} and the argument for {weights!r}",
            hint="say it in one place",
        )
    if weights is None:
        return None
    if isinstance(weights, os.PathLike):
        return Path(weights)
    if not isinstance(weights, str):
        raise UsageError(f"weights cannot be {weights!r}", expected="'default', a tag, a path or None")
    is_path = weights not in card.tags and (os.sep in weights or weights.endswith(_FILE_SUFFIXES))
    return Path(weights) if is_path else card.find(tag if weights == "default" else weights)


def _fetch(
    card: Card,
    chosen: Weights | Path | None,
    trust: str | None,
    licenses: Sequence[str] | None,
    *,
    progress: bool | None,
) -> Artefact | None:
    if isinstance(chosen, Path):
        return obtain_file(chosen)
    return None if chosen is None else obtain(card, chosen, trust=trust, licenses=licenses, progress=progress)


def _options(card: Card, chosen: Weights | Path | None, own: Mapping[str, object] | None) -> dict[str, object]:
    """What the constructor is given: the card's options, under those of the weights, under the user's own."""
    needed = chosen.options if isinstance(chosen, Weights) else {}
    return {**card.options, **needed, **(own or {})}


def _load(
    model: nn.Module,
    chosen: Weights | Path | None,
    artefact: Artefact,
    num_classes: int | None,
    in_channels: int | None,
    *,
    new_head: bool,
) -> None:
    state = read_state_dict(artefact.path)
    known = chosen if isinstance(chosen, Weights) else None
    if known and known.convert:
        state = resolve_name(known.convert)(state, model)
    in_file = None if known else _classes_in(state, anatomy_of(model).main)
    if in_file and not new_head and num_classes in (None, in_file):
        swap_head(model, in_file)  # a file of the user's own may have been trained on other classes
    if not known and in_channels is not None and _has_another_stem(state, model):
        adapt_stem(model, in_channels)  # or on pictures with other channels
    main = anatomy_of(model).main
    goes = new_head or (main is not None and num_classes not in (None, main.num_classes))
    replaceable = [site.path for site in anatomy_of(model).heads] if goes else []
    outcomes = load_state(
        model,
        state,
        ignore=known.ignore if known else (),
        replaceable=replaceable,
        source=artefact.path.name,
        # a file of the user's own may be written to again while the model lives, so it is copied and not mapped
        assign=known is not None,
    )
    receipt = Receipt(
        knowledge_of(model).receipt.model,
        known.tag if known else None,
        artefact.source,
        str(artefact.path),
        artefact.sha256,
        artefact.strength,
        outcomes,
    )
    attach(model, replace(knowledge_of(model), receipt=receipt, weights=known))


def _classes_in(state: Mapping[str, torch.Tensor], site: Head | None) -> int | None:
    """How many classes the head in a state dict has, when it is another number than the model's."""
    weight = state.get(f"{site.path}.weight") if site else None
    if weight is None or site is None or weight.dim() < 2 or weight.shape[0] % site.per_class:  # noqa: PLR2004 - out, in
        return None
    found = int(weight.shape[0]) // site.per_class
    return None if found == site.num_classes else found


def _has_another_stem(state: Mapping[str, torch.Tensor], model: nn.Module) -> bool:
    """Whether the first layers in a state dict have other shapes than the model's."""
    names = {f"{path}.weight": layer.weight for path, layer in stem_layers(model).items()}
    return any(name in state and state[name].shape != weight.shape for name, weight in names.items())


def _operate(
    model: nn.Module,
    num_classes: int | None,
    head: HeadLike | None,
    in_channels: int | None,
    freeze: Freeze | None,
) -> None:
    if in_channels is not None:
        adapt_stem(model, in_channels)
    main = anatomy_of(model).main
    if head is not None:
        swap_head(model, head)
    elif num_classes is not None and (main is None or main.num_classes != num_classes):
        swap_head(model, num_classes)
    if isinstance(freeze, Mapping):
        freeze_parts(model, *_listed(freeze.get("what", ())), **{k: v for k, v in freeze.items() if k != "what"})
    elif freeze is not None:
        freeze_parts(model, *_listed(freeze))


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
