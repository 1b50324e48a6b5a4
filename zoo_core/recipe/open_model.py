"""A model by whatever a user calls it by: itself, a name, or the folder of a save."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zoo_core.build.get import get
from zoo_core.errors import ImageError, NotSupported, UsageError, ZooError
from zoo_core.images.preprocessing import set_preprocessing
from zoo_core.recipe.load import load
from zoo_core.recipe.save_folder import is_save
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap


def open_model(
    model: nn.Module | str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = "default",
    preprocessing: str | None = None,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The model that a name, a folder of :func:`zoo_core.save`, or a module stands for.

    A model that is named and has no published weights is prepared for as its name's default weights are.

    Args:
        model: A module, which is returned as it is; a name; or a folder.
        weights: As for :func:`zoo_core.get`, for a name.
        preprocessing: The name of a model that images are prepared for alike; None for that of the model.
        device: Where a model goes that is named or saved.

    Raises:
        UsageError: ``weights``, ``preprocessing`` or ``device`` is given for a module, or ``weights`` for a folder.
        UnknownModel: There is neither a folder nor a model of that name.

    Example:
        >>> metadata_of(open_model("tiny/glyphnet")).card.id
        'tiny/glyphnet'
    """
    chosen = None if weights == "default" else weights
    if isinstance(model, nn.Module):
        said = {"weights": chosen, "preprocessing": preprocessing, "device": device}
        if wrong := [name for name, value in said.items() if value is not None]:
            raise UsageError(f"{wrong[0]} is for a model that is named", hint="leave it out: the model has its own")
        return model
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"a model cannot be {model!r:.60}",
            expected="a module, the name of a model, or the folder of a save",
            got=f"{type(model).__name__}",
        )
    if is_save(model):
        if chosen is not None:
            raise UsageError(f"{model} is a saved model, which has its own weights", hint="leave weights out")
        opened = load(model, device=device)
    else:
        opened = get(str(model), weights=weights, device=device)
    known = metadata_of(opened)
    if preprocessing is None and known.preprocessing is None and known.card and known.card.default:
        preprocessing = known.card.id
    return set_preprocessing(opened, preprocessing) if preprocessing is not None else opened


def require_values(model: nn.Module) -> None:
    """Refuse an opened model that is on the meta device: its tensors have no values, so that it cannot be run.

    Raises:
        NotSupported: It is on the meta device.
    """
    if any(p.is_meta for p in unwrap(model).parameters()):
        raise NotSupported(
            "the model is on the meta device, where tensors have no values", hint='zoo.get(name, device="cpu") has them'
        )


def require_results(model: nn.Module) -> None:
    """Refuse an opened model without a head: it gives features, which would be read as scores.

    Raises:
        NotSupported: Its head was cut off, or its weights have none; or it is on the meta device.
    """
    require_values(model)
    if gives_features(model):
        was_cut = _was_cut(model)
        raise NotSupported(
            f"this {type(unwrap(model)).__name__} has no head: it gives features, and no scores of classes",
            hint="model(zoo.transforms(model)(image)[None]) gives them"
            if was_cut
            else "zoo.embed(model, images) gives them by image; zoo.swap_head(model, 9) puts a head there",
        )


@contextmanager
def running_on(image: object) -> Iterator[None]:
    """Inside the block, an error of an opened model, such as at a size that it cannot take, names the image.

    Raises:
        ImageError: The model raised an error.

    Example:
        >>> with running_on("cat.jpg"):
        ...     raise ValueError("4 channels")
        Traceback (most recent call last):
        zoo_core.errors.ImageError: cat.jpg: no result: 4 channels
          likely cause: a ValueError of the model
          next step: zoo.preprocessing(model) has the size and the channels that it was trained with
    """
    try:
        yield
    except (ZooError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "the image"
        raise ImageError(
            f"{name}: no result: {str(error).partition(chr(10))[0]}",
            cause=f"a {type(error).__name__} of the model",
            hint="zoo.preprocessing(model) has the size and the channels that it was trained with",
            name=name,
        ) from error


def gives_features(model: nn.Module) -> bool:
    """Whether an opened model has no head that scores classes: it was cut off, or was never there.

    Example:
        >>> gives_features(get("tiny/glyphnet")), gives_features(get("tiny/glyphnet", num_classes=0))
        (False, True)
    """
    known, heads = metadata_of(model), anatomy_of(model).heads
    return _was_cut(model) or (known.card is not None and not any(site.num_classes for site in heads))


def _was_cut(model: nn.Module) -> bool:
    return any(edit.verb == "truncate" for edit in metadata_of(model).edits)
