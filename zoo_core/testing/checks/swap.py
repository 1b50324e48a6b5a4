"""The check of swaps: that another head changes nothing but the head, and leaves nothing of the old classes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from zoo_core.build.construct import construct
from zoo_core.contract.card import Card
from zoo_core.errors import ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.findings import NonConformance, require
from zoo_core.testing.under_test import (
    DETECTORS,
    inputs_of,
    inside,
    main_of,
    model_under_test,
    same,
    scores_of,
    tensors,
)
from zoo_core.utils.attributes import get_attribute
from zoo_core.utils.duplicate import duplicate

NUM_CLASSES = 9
"""What heads are swapped to: no library's own number."""
_BOX = 4
_NEAR_ODDS, _ROUNDING = 0.5, 1e-4
_COUNTS = ("num_classes", "num_labels", "n_classes", "nb_classes")
"""What libraries call the number of classes, and nothing else."""


def check_swap(card: Card) -> None:
    """A swap to 9 classes changes head keys only, aux heads and repeated class counts included."""
    model = duplicate(model_under_test(card))
    main_of(card, model)
    _check_prior(card)
    sites = [head.path for head in anatomy_of(model).heads]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swap_head(model, NUM_CLASSES, seed=0)
    for name, tensor in model.state_dict().items():
        if name not in before or tensor.shape != before[name].shape:
            require(inside(name, sites), f"{card.id}: the swap changed {name}, which is not under {', '.join(sites)}")
        elif not inside(name, sites):
            require(same(tensor, before[name]), f"{card.id}: the swap changed the values of {name}")
    other = _of_other_classes(card, model)
    _check_left(card, model, before, sites, other)
    _check_arguments(card, model, other)
    shape = tuple(_swapped_scores(card, model, sites).shape)
    dense = card.task != "classification"
    right = shape[:2] == (2, NUM_CLASSES) if dense else shape == (2, NUM_CLASSES)
    require(right or card.task in DETECTORS, f"{card.id}: {shape} scores after the swap")


def _check_prior(card: Card) -> None:
    """``Head.prior`` is what the constructor begins the biases of a head with, so that a swap does as well."""
    model = model_under_test(card)
    for head in anatomy_of(model).heads:
        bias = getattr(model.get_submodule(head.path), "bias", None)
        if not isinstance(bias, torch.Tensor) or bias.is_meta or bias.is_quantized:
            continue
        mean, spread = float(bias.mean()), float(bias.max() - bias.min())
        begins = f"the constructor begins the biases of head site {head.path!r} at {mean:.2f}"
        if head.prior is not None:
            odds = math.log(head.prior / (1 - head.prior))
            require(
                abs(odds - mean) < _NEAR_ODDS,
                f"{card.id}: Head.prior is {head.prior}, whose log odds are {odds:.2f}, and {begins}",
            )
        elif bias.numel() > 1 and spread < _ROUNDING and mean < -1:
            share = 1 / (1 + math.exp(-mean))
            require(condition=False, message=f"{card.id}: {begins}, and Head.prior is None; prior={share:.2g} does so")


def _check_arguments(card: Card, model: nn.Module, other: nn.Module | None) -> None:
    """The constructor makes a head of the classes that it is told, and a swap changes the integers that it changes."""
    if other is None:
        return
    told = main_of(card, other).num_classes
    require(
        told == NUM_CLASSES,
        f"{card.id}: the constructor builds a model of {NUM_CLASSES} classes, and its anatomy says {told}: read the "
        "number from the model",
    )
    for path in [path for head in anatomy_of(model).heads for path in head.attributes]:
        value = get_attribute(other, path)
        require(
            value == NUM_CLASSES,
            f"{card.id}: Head.attributes has {path!r}, which is {value!r} in a model of {NUM_CLASSES} classes too: it "
            "is no number of classes, and a swap would change it",
        )


def _check_left(
    card: Card, model: nn.Module, before: Mapping[str, Tensor], sites: list[str], other: nn.Module | None
) -> None:
    """After a swap no layer, tensor or integer outside the head sites is still of the old classes."""
    layers = [name for name in left_behind(model, before) if name not in sites]
    counts = [path for path, count in class_counts(model) if 0 < card.num_classes == count != NUM_CLASSES]
    tensors_left = [name for name in _per_class(card, model, sites) if name.rpartition(".")[0] not in layers]
    if not (layers or counts or tensors_left):
        return
    if other is None:  # then only what it gives says which of them are of the classes, and not by chance as wide
        layers = layers if _gives_old(card, model) else []
        counts = [path for path in counts if path.rpartition(".")[2] in _COUNTS]
        tensors_left = []
    else:
        layers = [path for path in layers if width_of(other.get_submodule(path)) != width_of(model.get_submodule(path))]
        counts = [path for path in counts if (path, card.num_classes) not in class_counts(other)]
        shapes = {name: tensor.shape for name, tensor in (*other.named_parameters(), *other.named_buffers())}
        tensors_left = [name for name in tensors_left if shapes.get(name) != get_attribute(model, name).shape]
    old = card.num_classes
    require(not layers, f"{card.id}: still {old}-way after the swap: {', '.join(layers)}")
    require(not counts, f"{card.id}: still {old} after the swap: {', '.join(counts)}; name it in Head.attributes")
    require(not tensors_left, f"{card.id}: {_old_count_left(card, tensors_left)}")


def _per_class(card: Card, model: nn.Module, sites: list[str]) -> list[str]:
    """Tensors outside the head sites that the check of swaps finds to have, perhaps, a number for each old class."""
    known = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [
        name
        for name, tensor in known.items()
        if card.num_classes != NUM_CLASSES and card.num_classes in tensor.shape and not inside(name, sites)
    ]


def _old_count_left(card: Card, names: list[str]) -> str:
    """Finding of the check of swaps that something still holds a number for each of the old classes."""
    return (
        f"{', '.join(names[:5])} still holds a number for each of the {card.num_classes} classes after the swap: a "
        "head site is one module, which nothing of the classes may follow; let the model apply it inside that module, "
        "or leave heads=() and say why in Anatomy.headless"
    )


def _swapped_scores(card: Card, model: nn.Module, sites: list[str]) -> Tensor:
    """Scores of a model after a swap of its head."""
    try:
        with torch.no_grad():
            return scores_of(model, *inputs_of(card))
    except RuntimeError as error:
        suspects = _per_class(card, model, sites)
        raise NonConformance(
            f"{card.id}: after the swap its forward fails"
            + (f": {_old_count_left(card, suspects)}" if suspects else ""),
            got=f"RuntimeError: {str(error).partition(chr(10))[0]}",
        ) from error


def _of_other_classes(card: Card, model: nn.Module) -> nn.Module | None:
    """The model made for the classes of the swap, to check that with it; None where no argument of its says them."""
    main = main_of(card, model)
    for name in _class_arguments(card):
        try:
            other = construct(card, {**card.options, name: NUM_CLASSES}, values=False)
            width = width_of(other.get_submodule(main.path))
        except (ZooError, AttributeError):
            continue
        if width == NUM_CLASSES * main.per_class:
            return other
        require(
            name != "num_classes" or width != card.num_classes * main.per_class or name not in known_arguments(card),
            f"{card.id}: {card.build} takes num_classes={NUM_CLASSES}, and builds a head of {card.num_classes} classes",
        )
    return None


def _class_arguments(card: Card) -> list[str]:
    """Arguments of the constructor that may be the number of classes, to make what a swap should give."""
    names = ["num_classes", *(name for name, value in card.options.items() if value == card.num_classes)]
    known = known_arguments(card)
    return [*dict.fromkeys([*names, *(name for name, each in known.items() if each.default == card.num_classes)])]


def known_arguments(card: Card) -> Mapping[str, inspect.Parameter]:
    """The arguments that a constructor says it takes, for the check of swaps to find that of the classes."""
    try:
        return inspect.signature(current_zoo().member(card.family).builder(card)).parameters
    except (ValueError, TypeError):  # a class of C, or of a metaclass that does not say
        return MappingProxyType({})


def _gives_old(card: Card, model: nn.Module) -> bool:
    """Whether something that a swapped model gives, in eval or in train mode, is still as wide as the old scores."""
    if card.task in DETECTORS:  # they give boxes, and losses
        return True
    outputs = []
    for training in (False, True):
        with torch.no_grad():
            ran = duplicate(model).train(training)(*inputs_of(card, train=training))
            outputs += [*tensors(ran)] or [*tensors(anatomy_of(model).scores_in(ran))]
    return any(card.num_classes in output.shape[1:] for output in outputs)


def left_behind(model: nn.Module, before: Mapping[str, Tensor]) -> Iterator[str]:
    """Layers that the check suspects a swap to have left: with as many outputs as an old head had, or four for each."""
    paths = [head.path for head in anatomy_of(model).heads]
    counts = [before[f"{path}.weight"].shape[0] for path in paths if f"{path}.weight" in before]
    old = {count * outputs for count in counts for outputs in (1, _BOX)}
    for path, module in model.named_modules():
        if f"{path}.weight" in before and width_of(module) in old:
            yield path


def width_of(module: nn.Module) -> int | None:
    """For the check of swaps, how many outputs a layer has; None for one that is neither linear nor a convolution."""
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) and weight.dim() > 1 else None


def class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The integers that the check of swaps takes for a model's numbers of classes, by path; configs included."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            at = f"{path}.{name}".lstrip(".")
            if type(value) is int and ("class" in name or "label" in name):
                yield at, value
            elif name == "config":
                counts = ((each, getattr(value, each, None)) for each in ("num_classes", "num_labels"))
                yield from ((f"{at}.{each}", count) for each, count in counts if type(count) is int)
