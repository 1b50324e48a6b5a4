"""``zoo.get``: resolve, fetch, build, load, operate, place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from torch import nn

from zoo_core.build.construct import construct
from zoo_core.build.load import fill, fill_packed, fill_with_nothing, operate
from zoo_core.build.own_file import build_own
from zoo_core.build.place import place
from zoo_core.build.request import Freeze, ModelRequest
from zoo_core.contract.card import Card, Weights
from zoo_core.errors import UsageError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.fine_tuning.freeze import freeze as freeze_parts
from zoo_core.surgery.metadata import keeping_metadata
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.device import default_device, on_the_cpu
from zoo_core.utils.gc import no_collection
from zoo_core.utils.paths import expand, is_written_as_path
from zoo_core.utils.random_state import seeded
from zoo_core.weights import Artefact, obtain, obtain_file
from zoo_core.weights.cache.converted import open_own
from zoo_core.weights.checkpoint.other_weights import warn_of_others
from zoo_core.weights.checkpoint.read import file_in
from zoo_core.weights.digest import sha256_of
from zoo_core.weights.hub_folder import is_hub_name
from zoo_core.weights.transport.urls import shown
from zoo_core.weights.trust.lock import held_tag

if TYPE_CHECKING:
    from zoo_core.surgery.head.fit import HeadLike

_FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".npz", ".pkl", ".safetensors")


@strict_arguments
def get(
    name: str,
    *,
    num_classes: int | None = None,
    head: HeadLike | None = None,
    in_channels: int | None = None,
    num_keypoints: int | None = None,
    weights: str | os.PathLike[str] | None = "default",
    freeze: Freeze | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    channels_last: bool = False,
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
    trust: str | None = None,
    licenses: Sequence[str] | None = None,
    progress: bool | None = None,
    ema: bool | None = None,
    prefix: str | None = None,
) -> nn.Module:
    """Any model of any installed family: fetched, verified, built, loaded, and given the head that you need.

    The result is the library's own module, of the same class and with the same state-dict keys outside the head, in
    train mode as its library makes it.

    Args:
        name: ``family/name@tag``, with family and tag optional. Also a save, as :func:`zoo_core.load` takes it, written
            as a path such as ``"./flowers"`` or as ``"hf://me/flowers"``: it keeps its own weights.
        num_classes: Scores of the head. The pretrained head stays when it has that many already, or when this is None;
            0 takes it off, and the model gives embeddings.
        head: A module or a ``zoo.mlp_head(...)`` to put in the place of the head, instead of ``num_classes``; or a dict
            of these and of numbers, for a model that returns a dict of scores. A file of your own that holds just such
            a head fills it; otherwise it starts as it is given.
        in_channels: Channels of the images, for another number than the model has: the pretrained filters are kept as
            :func:`zoo_core.adapt_stem` does by default, which has other ways to do it too.
        num_keypoints: Keypoints of an object, for a keypoint detector.
        weights: ``"default"``, a tag, the path of a file or folder of your own, or None for an untrained model. A file
            whose name and digest are those of a published one is loaded as that one. Any other is built as it is,
            whatever a trainer put around it: with the options of the default weights, its own classes, channels,
            keypoints, image size and head, as far as names and shapes tell; then it gets those that you ask for.
        freeze: What :func:`zoo_core.freeze` is to freeze: ``"backbone"``, a list of names and patterns, or a mapping of
            its arguments such as ``{"until": "layer4"}``.
        device: Where the model goes, as torch spells it: straight from the mapped file, tensor by tensor. None for
            torch's default device, which is the CPU unless you set another.
        dtype: What its floating-point tensors become, such as ``torch.bfloat16`` or ``"bfloat16"``.
        channels_last: Lay filters out with their channels last, as convolutions on a GPU like them best.
        seed: Makes all that is drawn at random reproducible, without touching the global random state.
        options: Arguments for the library's own constructor, over those that the card and the weights ask for.
        trust: ``"first-use"`` accepts weights without a published digest; it is pinned from then on.
        licenses: The licences that are acceptable; anything else is refused before it is downloaded.
        progress: Whether to show a progress bar while downloading; None shows one on a terminal.
        ema: Which weights of a file of your own to take: True for averaged ones only, False for none of those. None
            takes averaged ones where they are complete.
        prefix: What is before the names of the model in a file of your own, such as ``"student."``; found by itself
            where it is None.

    Raises:
        UnknownModel: No family has it; close matches are listed.
        UnknownTag: The model has no such weights.
        UsageError: Another argument is impossible; the message says what is possible.
        HeadMismatch: The head does not take what its site gives.
        NotSupported: The model cannot have another number of channels, or another head.
        FamilyUnavailable: The library of the family is not installed.
        WeightsError: The weights could not be had, trusted or loaded; nothing unproven remains.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=9, freeze="backbone", seed=0)
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['fc.weight', 'fc.bias']
    """
    request = ModelRequest.of(
        num_classes=num_classes,
        head=head,
        in_channels=in_channels,
        num_keypoints=num_keypoints,
        freeze=freeze,
        device=device,
        dtype=dtype,
        channels_last=channels_last,
        seed=seed,
        options=options,
        ema=ema,
        prefix=prefix,
    )
    if is_hub_name(name) or is_written_as_path(name):
        return _saved(name, weights, request)
    card, tag = current_zoo().resolve(name)
    current_zoo().available(card)
    chosen = _choose(card, tag, weights)
    artefact, entry = _fetch(card, chosen, trust, licenses, progress=progress)
    home = request.device or default_device()
    with suppress(Exception):  # imported before other threads have to wait; an error comes again below
        current_zoo().member(card.family).builder(card)
    with on_the_cpu(), no_collection(), torch.inference_mode(mode=False):  # else it could never be trained
        with seeded(request.seed):
            model = _made(card, artefact, entry, request, home)
        _freeze(model, request.freeze)
        return place(model, home, request.dtype, channels_last=request.channels_last)


def _made(
    card: Card, artefact: Artefact | None, entry: Weights | None, request: ModelRequest, home: torch.device | None
) -> nn.Module:
    """The model that ``get`` gives, with its weights, and with the stem, head and keypoints that were requested."""
    if artefact is not None and entry is None:
        model, has_head = _own(card, artefact, request)
        operate(model, request, has_head=has_head)
        return model
    is_virtual = home is not None and home.type == "meta"  # where values would be thrown away
    values = bool(entry and entry.absent) if artefact else not is_virtual
    model = construct(card, _options(card, entry, request.options), own=request.options, values=values)
    with keeping_metadata(model):  # it was handed to no caller yet, so there is no change by hand to look for
        if artefact is not None and entry is not None:
            fill(model, entry, artefact, request)
        elif not values:
            fill_with_nothing(model)
        operate(model, request)
    return model


def _own(card: Card, artefact: Artefact, request: ModelRequest) -> tuple[nn.Module, bool]:
    """What ``get`` makes of a file of the user's own, and whether that has the head that was requested already."""
    default = next((each for each in card.weights if each.tag == card.default), None)
    options = _options(card, default, request.options)
    if options.get("quantize"):
        model = construct(card, options, own=request.options, values=False)
        fill_packed(model, artefact)
        return model, False
    return build_own(card, open_own(artefact.path), artefact, request)


def _saved(name: str, weights: object, request: ModelRequest) -> nn.Module:
    """What ``get`` makes of a save: the model in it, with what is requested done to it."""
    import zoo_core

    if weights != "default" or request.options:
        wrong = "options" if weights == "default" else "weights"
        raise UsageError(f"{name} is a save, which has its own weights and options", hint=f"leave {wrong}= out")
    home = request.device or default_device()
    model = zoo_core.load(name, device="cpu")
    with on_the_cpu(), no_collection():
        with seeded(request.seed):
            operate(model, request)
        _freeze(model, request.freeze)
        return place(model, home, request.dtype, channels_last=request.channels_last)


def _choose(card: Card, tag: str | None, weights: object) -> Weights | Path | None:
    """What ``weights=`` and the tag of the name mean together in ``zoo.get``."""
    if isinstance(weights, Enum):  # as torchvision names its own
        weights = weights.name
    if tag and weights not in ("default", tag):
        raise UsageError(
            f"the name asks for the weights {tag!r} and the argument for {weights!r}",
            hint="say it in one place",
        )
    if weights is None:
        return None
    if isinstance(weights, os.PathLike):
        return Path(weights)
    if not isinstance(weights, str) or not weights:
        raise UsageError(f"weights cannot be {weights!r}", expected="'default', a tag, a path or None")
    if weights in card.tags or weights.lower() == "default":
        return card.find(tag or held_tag(card.id, card.default) if weights.lower() == "default" else weights)
    return _own_path(weights) or card.find(weights)


def _own_path(weights: str) -> Path | None:
    """The file of the user's own that ``weights=`` of ``zoo.get`` means; None for what can only be a tag.

    Raises:
        UsageError: It is a url.
    """
    if weights.startswith("file://"):
        return Path(url2pathname(urlsplit(weights).path))
    if "://" in weights:
        raise UsageError(
            f"weights cannot be a url: {shown(weights)!r}",
            expected="'default', a tag, the path of a file, or None",
            hint="zoo_core.weights.fetch(url, folder, sha256=...) downloads and proves it; give weights= its path",
        )
    is_path = os.sep in weights or weights.lower().endswith(_FILE_SUFFIXES) or os.path.exists(expand(weights))  # noqa: PTH110 - a name that no file can have is a tag
    return Path(weights) if is_path else None


def _fetch(
    card: Card,
    chosen: Weights | Path | None,
    trust: str | None,
    licenses: Sequence[str] | None,
    *,
    progress: bool | None,
) -> tuple[Artefact | None, Weights | None]:
    """The file of weights that ``get`` loads, and the entry of the card that it is; so may be one of the user's own."""
    if chosen is None:
        return None, None
    if isinstance(chosen, Path):
        own = obtain_file(file_in(expand(chosen)))
        warn_of_others(expand(chosen), own.path, stacklevel=4)  # past strict_arguments and get
        return own, _entry_of(card, own.path)
    return obtain(card, chosen, trust=trust, licenses=licenses, progress=progress), chosen


def _entry_of(card: Card, path: Path) -> Weights | None:
    """The entry whose published file ``get`` was given, by name and digest: it may need options and conversions."""
    files = ((entry, file) for entry in card.weights for file in entry.files)
    named = [(entry, file.sha256) for entry, file in files if file.sha256 and file.file_name == path.name]
    if not named:
        return None
    try:
        digest = sha256_of(path)
    except OSError:  # the reader says why
        return None
    return next((entry for entry, known in named if digest.startswith(known)), None)


def _options(card: Card, entry: Weights | None, own: Mapping[str, object] | None) -> dict[str, object]:
    """What ``get`` gives the constructor: the card's options, under those of the weights, under the user's own."""
    return {**card.options, **(entry.options if entry else {}), **(own or {})}


def _freeze(model: nn.Module, freeze: Freeze | None) -> None:
    """Freeze the parts that ``zoo.get(..., freeze=...)`` names."""
    if isinstance(freeze, Mapping):
        what = freeze.get("what", ())
        names = (what,) if isinstance(what, str) else tuple(what)
        freeze_parts(model, *names, **{name: value for name, value in freeze.items() if name != "what"})
    elif freeze:
        freeze_parts(model, *freeze)
