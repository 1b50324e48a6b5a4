"""``zoo.transforms``: the pipeline of pictures that belongs to the weights in use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.errors import NotSupported, UsageError, ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import knowledge_of
from zoo_core.surgery.stem.filters import plan_channels
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from zoo_core.contract.card import Preprocessing
    from zoo_core.surgery.metadata import Edit

_TRAINABLE = "classification"


@strict_arguments
def transforms(
    model: nn.Module | str,
    *,
    train: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """The pipeline that turns a picture into what ``model`` takes, as its weights were trained and measured with.

    It is a ``torchvision.transforms.v2.Compose``, so that it can be printed, pickled, taken apart and put into another
    one. It takes a PIL picture, a tensor ``[..., C, H, W]`` of uint8 or of floats from 0 to 1, or a sample that holds
    one next to labels, masks and boxes, and gives float32 ``[..., C, H, W]``. Grey pictures become RGB for a model that
    takes RGB. On PIL pictures the values are those of the library's own pipeline; a tensor is resampled by other code
    than a PIL picture, and differs from it by a few of the 255 levels.

    A model whose stem :func:`zoo_core.adapt_stem` has adapted gets the numbers that belong to its new channels: for one
    channel the averages of the old means and deviations, and RGB pictures become grey; where filters are repeated or
    mapped, the numbers go with them. The channels are then taken in the order in which they come.

    By task: a detector scales and normalises by itself, and gets floats from 0 to 1; segmentation keeps the whole
    picture; a video is ``[..., T, C, H, W]`` and becomes ``[..., C, T, H, W]``; optical flow takes its two pictures one
    at a time.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt(..., weights=...)``; or ``family/name@tag``, which
            stands for the default weights without its tag, and for which nothing is fetched or built.
        train: Augment as torchvision's reference does to train a classifier: ``RandomResizedCrop`` (8 to 100 % of the
            area, 3:4 to 4:3) and a flip for one picture in two, in place of resize and crop.
        mean: One number a channel, in the order of the model's channels, in place of those of the weights.
        std: The same for the deviations.

    Returns:
        The pipeline.

    Raises:
        NotAZooModel: zoo knows nothing about the model.
        NotSupported: No weights say how the model's pictures are prepared; or a channel is new, and ``mean`` and
            ``std`` are not given; or ``train`` is for another task than classification.
        UsageError: ``mean`` or ``std`` is not one number a channel.
        ZooError: torchvision is not installed.

    Example:
        >>> import torch, zoo_core as zoo
        >>> pipeline = zoo.transforms("resnet18@IMAGENET1K_V1")
        >>> pipeline(torch.zeros(2, 3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([2, 3, 224, 224])
    """
    wanted = _wanted(model)
    if train and wanted.task != _TRAINABLE:
        raise NotSupported(
            f"there are no standard augmentations for {wanted.task}",
            expected=f"a model for {_TRAINABLE}",
            cause="its targets have to be cut and flipped along with the picture",
            hint="put your own before those of zoo.transforms(model): v2.Compose([yours, zoo.transforms(model)])",
        )
    means = _numbers("mean", mean, wanted.mean)
    stds = _numbers("std", std, wanted.std)
    try:
        from zoo_core.preprocessing.pipeline import compose
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("torchvision"):
            raise
        raise ZooError("a pipeline of pictures needs torchvision", hint="pip install 'torchvision>=0.23'") from error
    return compose(wanted.preprocessing, wanted.task, means, stds, reorder=not wanted.adapted, train=train)


@dataclass(frozen=True)
class _Wanted:
    """What a model or a name asks for; a mean that is NaN is one that nobody knows."""

    preprocessing: Preprocessing
    task: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    adapted: bool = False


def _wanted(model: object) -> _Wanted:
    if isinstance(model, str):
        card, tag = current_zoo().resolve(model)
        said = card.find(tag).preprocessing
        return _Wanted(said, card.task, said.mean, said.std)
    known: Any = knowledge_of(model)  # type: ignore[arg-type]  # it refuses what is no module
    if known.preprocessing is None:
        raise _unsaid(known.card.id if known.card else None)
    edits = [edit for edit in known.edits if edit.verb == "adapt_stem"]
    said = known.preprocessing
    task = known.card.task if known.card else _TRAINABLE
    return _Wanted(said, task, _through(edits, said.mean), _through(edits, said.std), adapted=bool(edits))


def _through(edits: Iterable[Edit], numbers: Sequence[float]) -> tuple[float, ...]:
    """One number a channel after the stem was adapted; NaN for a channel that comes from no old one."""
    for edit in edits:
        arguments = edit.arguments
        plan = plan_channels(arguments["in_channels"], len(numbers), arguments["policy"], arguments["map"])
        new = plan.numbers(numbers)
        kept = _channels_kept(plan.policy, plan.sources, len(numbers))
        numbers = [value if kept is None or i in kept else math.nan for i, value in enumerate(new)]
    return tuple(numbers)


def _channels_kept(policy: str, sources: Any, old: int) -> Iterable[int] | None:  # noqa: ANN401 - a mapping or None
    """The new channels that come from old ones; None for all of them."""
    if sources is not None:
        return tuple(sources)
    return {"random": (), "zero": range(old)}.get(policy)


def _numbers(name: str, own: Sequence[float] | None, of_weights: tuple[float, ...]) -> tuple[float, ...]:
    """The user's numbers, one a channel, or else those of the weights."""
    if own is None:
        if unknown := [i for i, value in enumerate(of_weights) if math.isnan(value)]:
            raise NotSupported(
                f"nobody knows the {name} of channel {', '.join(map(str, unknown))}",
                cause="it starts silent or random, so that it means what your data put there",
                hint=f"{name}=[...] with {len(of_weights)} numbers, measured on your own data",
            )
        return of_weights
    found = tuple(own) if not isinstance(own, str | bytes) and hasattr(own, "__iter__") else ()
    if len(found) != len(of_weights) or not all(_is_number(value) and (name == "mean" or value > 0) for value in found):
        raise UsageError(
            f"{name} cannot be {own!r}",
            expected=f"{len(of_weights)} {'numbers' if name == 'mean' else 'numbers above 0'}, one for each channel",
        )
    return tuple(float(value) for value in found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unsaid(name: str | None) -> NotSupported:
    named = f'"{name}"' if name else '"family/name"'
    return NotSupported(
        f"no weights say how pictures for this {name or 'model'} are prepared",
        cause="it is untrained, has weights of your own, or was adopted without saying which it has",
        hint=f"zoo.transforms({named}) for those of its published weights, or zoo.adopt(model, ..., weights=tag)",
    )
