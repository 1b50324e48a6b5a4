"""``zoo.preprocessing`` and ``zoo.transforms``: what images go through before a model, as numbers and as a pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo_core.contract.card import Card, Preprocessing
from zoo_core.contract.card_file import preprocessing_from_record, preprocessing_to_record
from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import Edit, Metadata, attach, metadata_of, unwrap
from zoo_core.surgery.stem.filters import plan_channels
from zoo_core.utils.arguments import check_sides, strict_arguments
from zoo_core.weights.trust.lock import held_tag

if TYPE_CHECKING:
    from torch import nn


_VERB = "set_preprocessing"
_SIDES = 2
_LARGEST = 16_384
"""More pixels a side than any model sees; a slip of the keys beyond that takes all memory."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of the preprocessing of a model or a name; a mean or std that is NaN is not known.

    Attributes:
        preprocessing: With a number for each channel that the model has now.
        task: What the model does, as on its card.
    """

    preprocessing: Preprocessing
    task: str


@strict_arguments
def preprocessing(model: nn.Module | str, *, size: int | Sequence[int] | None = None) -> Preprocessing:
    """The preprocessing of images before ``model`` sees them, as numbers: for albumentations or a server.

    :func:`zoo_core.transforms` is the pipeline of the same numbers.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt(..., weights=...)``; or ``family/name@tag``, for
            which nothing is fetched or built.
        size: Height and width of the crop, or one number for both, instead of those of the weights.

    Returns:
        The record; ``dataclasses.asdict`` makes plain data of it. Where :func:`zoo_core.adapt_stem` has changed the
        channels there is one mean and std for each channel that the model has now.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: The model has no preprocessing, a channel of it has no numbers, or it takes no size.

    Example:
        >>> import zoo_core as zoo
        >>> found = zoo.preprocessing("resnet18@IMAGENET1K_V1")
        >>> found.resize, found.crop, found.mean
        ((256,), (224, 224), (0.485, 0.456, 0.406))
        >>> zoo.preprocessing("resnet18@IMAGENET1K_V1", size=384).resize
        (439,)
    """
    result = numbers_of(model)
    for name in ("mean", "std"):
        require_known(name, getattr(result.preprocessing, name))
    return resized(result, size)


@strict_arguments
def set_preprocessing(model: nn.Module, preprocessing: Preprocessing | Mapping[str, Any] | str) -> nn.Module:
    """Set the preprocessing of images before ``model`` sees them: for an untrained model, or weights of your own.

    It stays with the model: :func:`zoo_core.transforms`, :func:`zoo_core.predict` and :func:`zoo_core.save` use it.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt``; changed by what zoo knows of it alone.
        preprocessing: The name of a model, ``family/name@tag``, whose weights are prepared for in the same way; or a
            :class:`~zoo_core.Preprocessing` with a mean and std for each channel of the model.

    Returns:
        The same model.

    Raises:
        UsageError: It has not one mean and std for each channel, or is no preprocessing.
        UnknownModel: There is no model of that name.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.set_preprocessing(zoo.get("resnet18", weights=None), "resnet18")
        >>> zoo.preprocessing(model).crop
        (224, 224)
    """
    attach(unwrap(model), with_preprocessing(metadata_of(model), fitting(model, preprocessing)))
    return model


@strict_arguments
def transforms(
    model: nn.Module | str,
    *,
    train: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | Sequence[int] | None = None,
) -> nn.Module:
    """The pipeline that turns an image into what ``model`` takes, as its weights were trained and measured with.

    It is a ``torchvision.transforms.v2.Compose``, so that it can be printed, pickled, taken apart and put into another
    one. It takes a PIL image, a tensor ``[..., C, H, W]`` of uint8 or of floats from 0 to 1, or a sample that holds
    one next to labels, masks and boxes, and gives float32 ``[..., C, H, W]``. Grey images become RGB for a model that
    takes RGB. On PIL images the values are those of the library's own pipeline; a tensor is resampled by other code
    than a PIL image, and differs from it by a few of the 255 levels.

    A model whose stem :func:`zoo_core.adapt_stem` has adapted gets the numbers that belong to its new channels: for one
    channel the averages of the old means and deviations, and RGB images become grey; where filters are repeated or
    mapped, the numbers go with them. The channels are then taken in the order in which they come.

    By task: a detector scales and normalizes by itself, and gets floats from 0 to 1; segmentation keeps the whole
    image; a video is ``[..., T, C, H, W]`` and becomes ``[..., C, T, H, W]``; optical flow takes its two images one
    at a time.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt(..., weights=...)``; or ``family/name@tag``, which
            stands for the default weights without its tag, and for which nothing is fetched or built.
        train: Augment as torchvision's references do, in place of resize and crop. Classification:
            ``RandomResizedCrop`` (8 to 100 % of the area, 3:4 to 4:3) and a flip for one image in two. Detection: a
            flip. Segmentation: a scale of 0.5 to 2, a flip, and a crop, padded where it has to be, with 255 in masks.
            Boxes and masks are moved along when they are ``tv_tensors``.
        mean: One number a channel, in the order of the model's channels, in place of those of the weights.
        std: The same for the deviations.
        size: Height and width of the crop, or one number for both, instead of those of the weights: the resize keeps
            its ratio to it, as when a model is used at 384 pixels that was trained at 224.

    Returns:
        The pipeline.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: No weights say how the model's images are prepared; or a channel is new, and ``mean`` and
            ``std`` are not given; or ``train`` is for a task without standard augmentations.
        UsageError: ``mean`` or ``std`` is not one number a channel, or ``size`` is no size.
        ZooError: torchvision is not installed.

    Example:
        >>> import torch, zoo_core as zoo
        >>> pipeline = zoo.transforms("resnet18@IMAGENET1K_V1")
        >>> pipeline(torch.zeros(2, 3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([2, 3, 224, 224])
    """
    result = numbers_of(model)
    chosen = replace(
        resized(result, size),
        mean=_mean_or_std("mean", mean, result.preprocessing.mean),
        std=_mean_or_std("std", std, result.preprocessing.std),
    )
    try:
        from zoo_core.images.transform_steps import compose
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("torchvision"):
            raise
        raise ZooError("a pipeline of images needs torchvision", hint="pip install 'torchvision>=0.23'") from error
    return compose(chosen, result.task, train=train)


def _mean_or_std(name: str, own: Sequence[float] | None, of_weights: tuple[float, ...]) -> tuple[float, ...]:
    """The mean or std for ``zoo.transforms``, one number a channel, from the user or else from the weights."""
    if own is None:
        require_known(name, of_weights)
        return of_weights
    result = tuple(own) if not isinstance(own, str | bytes) and hasattr(own, "__iter__") else ()
    if len(result) != len(of_weights) or not all(
        _is_number(value) and (name == "mean" or value > 0) for value in result
    ):
        raise UsageError(
            f"{name} cannot be {own!r}",
            expected=f"{len(of_weights)} {'numbers' if name == 'mean' else 'numbers above 0'}, one for each channel",
        )
    return tuple(float(value) for value in result)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def with_preprocessing(known: Metadata, preprocessing: Preprocessing) -> Metadata:
    """Another preprocessing in a copy of what is known of a model, as :func:`set_preprocessing` sets it."""
    edit = Edit(_VERB, {"preprocessing": preprocessing_to_record(preprocessing)})
    return replace(known, edits=(*known.edits, edit))


def fitting(model: nn.Module, preprocessing: object) -> Preprocessing:
    """A preprocessing with a number for each channel of ``model``, from what a user gave.

    Raises:
        UsageError: It has not one mean and std for each channel, or is no preprocessing.
    """
    result = _as_preprocessing(preprocessing)
    if isinstance(preprocessing, str):
        card, _ = current_zoo().resolve(preprocessing)
        result = _for_built_size(model, Numbers(result, card.task), card)
    channels = example_input(model).shape[1]
    edits = [edit for edit in metadata_of(model).edits if edit.verb == "adapt_stem"]
    if isinstance(preprocessing, str) and edits and len(result.mean) != channels:
        result = _with_new_channels(edits, result)
    if len(result.mean) == len(result.std) == channels:
        return result
    raise UsageError(
        f"a preprocessing of {len(result.mean)} means and {len(result.std)} stds for a model of {channels} channels",
        expected=f"{channels} of each",
        hint="dataclasses.replace(zoo.preprocessing(name), mean=(...), std=(...)) has numbers of your own",
    )


def _as_preprocessing(preprocessing: object) -> Preprocessing:
    """The ``Preprocessing`` that a user sets: a record, a mapping, or the name of a model."""
    if isinstance(preprocessing, str):
        card, tag = current_zoo().resolve(preprocessing)
        return card.find(tag or held_tag(card.id, card.default)).preprocessing
    if isinstance(preprocessing, Mapping):
        try:
            preprocessing = preprocessing_from_record(dict(preprocessing))
        except (TypeError, ValueError) as error:
            raise UsageError(f"that is no preprocessing: {error}", hint="zoo.Preprocessing has the fields") from error
    if not isinstance(preprocessing, Preprocessing):
        raise UsageError(
            f"a preprocessing cannot be {preprocessing!r:.60}", expected="a zoo.Preprocessing, or the name of a model"
        )
    return preprocessing


def numbers_of(model: nn.Module | str) -> Numbers:
    """The preprocessing of a model or of a name, as numbers.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: Nothing says how its images are prepared.
    """
    if isinstance(model, str):
        card, tag = current_zoo().resolve(model)
        return Numbers(card.find(tag or held_tag(card.id, card.default)).preprocessing, card.task)
    known = metadata_of(model)
    task = known.card.task if known.card else "classification"
    result = current_preprocessing(known.preprocessing, known.edits)
    if result is None:
        raise _no_preprocessing(known)
    if known.card and not any(edit.verb == _VERB for edit in known.edits):
        result = _for_built_size(model, Numbers(result, task), known.card)
    return Numbers(result, task)


def _for_built_size(model: nn.Module, numbers: Numbers, card: Card) -> Preprocessing:
    """The preprocessing of a card, resized for a model that was built for images of another size and no others."""
    sides = metadata_of(model).built_image_size(unwrap(model))
    is_other = sides is not None and sides != card.input_size[-2:] and numbers.preprocessing.crop
    return resized(numbers, sides) if is_other else numbers.preprocessing


def current_preprocessing(start: Preprocessing | None, edits: Sequence[Edit]) -> Preprocessing | None:
    """The preprocessing of a model's images now: the latest that was set, with the channels of each new stem since."""
    latest = max((i for i, edit in enumerate(edits) if edit.verb == _VERB), default=None)
    if latest is not None:
        start, edits = _as_preprocessing(edits[latest].arguments["preprocessing"]), edits[latest + 1 :]
    return start and _with_new_channels([edit for edit in edits if edit.verb == "adapt_stem"], start)


def _with_new_channels(edits: Sequence[Edit], before: Preprocessing) -> Preprocessing:
    """The preprocessing with numbers for the channels of adapted stems; NaN for one that comes from no old one.

    Its channels are then taken in the order in which they come.
    """
    if not edits:
        return before
    mean, std = (_numbers_through(edits, numbers) for numbers in (before.mean, before.std))
    return replace(before, mean=mean, std=std, channel_order="RGB")


def _numbers_through(edits: Iterable[Edit], numbers: Sequence[float]) -> tuple[float, ...]:
    """The mean or std of a preprocessing with a number for each new channel; NaN for one that comes from no old one."""
    for edit in edits:
        arguments = edit.arguments
        plan = plan_channels(arguments["in_channels"], len(numbers), arguments["policy"], arguments["map"])
        new, known = plan.numbers(numbers), plan.known(len(numbers))
        numbers = [value if i in known else math.nan for i, value in enumerate(new)]
    return tuple(numbers)


def require_known(name: str, numbers: Sequence[float]) -> None:
    """Refuse a mean or std of a preprocessing of which one number is not known.

    Raises:
        NotSupported: One is NaN.
    """
    if unknown := [i for i, value in enumerate(numbers) if math.isnan(value)]:
        raise NotSupported(
            f"the {name} of channel {', '.join(map(str, unknown))} is not known",
            cause="it starts silent or random, so that it means what your data put there",
            hint=f"zoo.transforms(model, {name}=[...]) with {len(numbers)} numbers, measured on your own data, or "
            "zoo.set_preprocessing(model, zoo.Preprocessing(...)) for all that follows",
        )


def resized(numbers: Numbers, size: int | Sequence[int] | None) -> Preprocessing:
    """The preprocessing for images of another size: the crop is that size, and the resize keeps its ratio to it.

    Raises:
        UsageError: ``size`` is no size.
        NotSupported: The model brings images to its size itself.
    """
    before = numbers.preprocessing
    if size is None:
        return before
    sides = check_sides("size", size)
    if max(sides) > _LARGEST:
        raise UsageError(
            f"images of {size} pixels would take gigabytes each",
            expected=f"at most {_LARGEST}",
            hint="zoo.sliding_window runs over large images",
        )
    if not before.crop and not before.resize:
        raise NotSupported(
            f"a model for {numbers.task} brings images to its size itself",
            hint="leave size out, and set model.transform.min_size and .max_size where it has them",
        )
    if not before.crop:
        return replace(before, resize=sides if isinstance(size, Iterable) else (min(sides),))
    height, width = (new / old for new, old in zip(sides, before.crop, strict=True))
    ratios = (height, width) if len(before.resize) == _SIDES else (max(height, width),)
    resize = tuple(round(old * ratio) for old, ratio in zip(before.resize, ratios, strict=True))
    return replace(before, crop=sides, resize=resize)


def _no_preprocessing(known: Metadata) -> NotSupported:
    """Error of ``zoo.preprocessing`` for a model whose weights do not say how images are prepared."""
    published = known.card.id if known.card and known.card.weights else None
    hint = "zoo.set_preprocessing(model, zoo.Preprocessing()) prepares them as for ImageNet; give its fields otherwise"
    if published:
        hint = (
            f'zoo.set_preprocessing(model, "{published}") prepares them as for its published weights, and '
            f'zoo.transforms("{published}") is their pipeline alone'
        )
    return NotSupported(
        f"no weights say how images for this {known.card.id if known.card else 'model'} are prepared",
        cause="it is untrained, has weights of your own, or was adopted without saying which it has",
        hint=hint,
    )
