"""Where the parts of a built timm model are: by rules that read the module itself, and few exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.plugin import Anatomy, AnatomyError
from zoo_timm.heads import heads, is_model, why_headless
from zoo_timm.split import split
from zoo_timm.stems import stem
from zoo_timm.timm_stages import layout, stages

if TYPE_CHECKING:
    from torch import nn


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a timm model: its heads, stem and stages, and how its forward splits.

    Everything is read from the model as it is now, so that it stays true for other options, another head or stem.

    Args:
        model: A model of timm, or of a class derived from one of its.

    Raises:
        AnatomyError: The model is of no class of timm's, or was changed beyond recognition.

    Example:
        >>> import timm
        >>> found = anatomy(timm.create_model("resnet18"))
        >>> found.main.path, found.main.in_features
        ('fc', 512)
    """
    if not is_model(model):
        raise AnatomyError(
            f"{type(model).__name__} is not a model of timm",
            expected="what timm.create_model returns, with features_only left out",
            got=f"{type(model).__module__}.{type(model).__name__}",
        )
    try:
        return _read(model)
    except (AttributeError, ValueError, KeyError) as error:
        if isinstance(error, AnatomyError):
            raise
        raise AnatomyError(
            f"{type(model).__name__} no longer has the layout that timm gives it",
            cause=str(error),
            hint="give zoo the model as the library built it, and change its head with zoo.swap_head",
        ) from error


def _read(model: nn.Module) -> Anatomy:
    """The anatomy of a timm model, put together from what each rule reads."""
    headless = why_headless(model)
    sites = () if headless else heads(model)
    result = split(model, sites)
    return Anatomy(
        heads=sites,
        stem=stem(model),
        stages=stages(model),
        features=result.features,
        pool=result.pool,
        classify=result.classify,
        layout=layout(model),
        headless=headless,
        indivisible=result.indivisible,
    )
