"""What a user put at a head site by hand: its kind, its width and how many classes it scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from zoo_core.errors import AnatomyError
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoo_core.contract.anatomy import Head

Kind = Literal["linear", "conv", "conv1d", "conv3d"]

_WIDTHS, _COUNTS = ("in_features", "in_channels"), ("out_features", "out_channels")
_LAYERS: dict[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv3d",
}
_PLACES = {"linear": 0, "conv1d": 1, "conv": 2, "conv3d": 3}
"""Axes of a map beside the batch and the channels."""


def measured(model: nn.Module, head: Head) -> Head:
    """A head site with the widths of the module that a user put there by hand.

    What a class of the user's own takes, and how many classes it scores, its layers do not tell for sure: they may be
    registered in any order, and be given another shape than the class is. So it is run, on zeros.

    Args:
        model: As it is now.
        head: As the site was before.

    Raises:
        AnatomyError: No layer tells the width, and the module does not take what the site was given before.
    """
    module = model.get_submodule(head.path)
    layers = layers_with_width(module)
    if not layers and not scores_its_own_way(module):  # only the place is left, as timm's reset_classifier(0) leaves it
        return replace(head, num_classes=0)
    found = head
    if layers:
        found = replace(
            head,
            kind=next((kind for each, kind in _LAYERS.items() if isinstance(layers[0], each)), head.kind),
            in_features=width_of(layers[0]),
            num_classes=_number(layers[-1], _COUNTS) // head.per_class,
        )
    if type(module) in _LAYERS:
        return found
    for site in dict.fromkeys((head, found)):
        if count := _count_by_running(module, site):
            return replace(site, num_classes=count // head.per_class)
    if layers:
        return found
    raise AnatomyError(
        f"the module {head.path!r} of this {type(model).__name__}, which was put there by hand, gives no scores",
        expected=f"one that takes the {head.in_features} features that the head before it took",
        cause=f"a {type(module).__name__} has no layer that tells what it takes, and does not run on that",
        hint="zoo.adopt(model, example=x), with x what forward takes, finds its parts anew",
    )


def _count_by_running(module: nn.Module, site: Head) -> int:
    """How many numbers a module that was put at a head site by hand gives for each place; 0 where it does not run."""
    parameters = [*module.parameters()]
    if not parameters or any(hasattr(each, "device_mesh") for each in parameters):  # shards, which run together only
        return 0
    like = next((each for each in parameters if each.is_floating_point()), parameters[0])
    axis = -1 if site.kind == "linear" else 1
    for shape in _shapes_for(site):
        given = torch.zeros(shape, device=like.device, dtype=like.dtype)
        try:
            with inferring(module):
                scores: Any = module(given)
        except Exception:  # noqa: BLE001, S112 - whatever a module raises that takes something else
            continue
        several = [*scores.values()] if isinstance(scores, dict) else [scores]  # of heads by name, one after another
        if all(isinstance(each, torch.Tensor) and each.dim() in {2, given.dim()} for each in several):  # or pooled
            return sum(int(each.shape[axis]) for each in several if len(each) == len(given))
    return 0


def _shapes_for(site: Head) -> Iterator[list[int]]:
    """Shapes of what a module that was put at a head site by hand may be given: a vector or tokens, or a map."""
    batch = next(count for count in (2, 3) if count != site.in_features)  # must not be taken for the features
    yield [batch, site.in_features, *[1] * _PLACES[site.kind]]
    if site.kind == "linear":
        yield [batch, batch + 2, site.in_features]


def scores_its_own_way(module: nn.Module) -> bool:
    """Whether a head put in by hand has parameters and no layer that tells an anatomy its width, as for cosines."""
    has_parameters = next(module.parameters(), None) is not None
    return not layers_with_width(module) and has_parameters and not has_nothing_to_score_with(module)


def layers_with_width(module: nn.Module) -> list[nn.Module]:
    """The layers with a width in a module that was put in by hand, at a head site or around it."""
    return [layer for layer in module.modules() if width_of(layer)]


def width_of(layer: nn.Module) -> int:
    """How many features or channels a layer that was put in by hand takes; 0 where it does not say so."""
    return _number(layer, _WIDTHS)


def _number(layer: nn.Module, names: Iterable[str]) -> int:
    """A width of a layer that was put at a head site by hand: the first of these attributes that is an integer."""
    return next((value for name in names if isinstance(value := getattr(layer, name, None), int)), 0)
