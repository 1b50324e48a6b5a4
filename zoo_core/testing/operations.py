"""The checks of surgery: that it does to every model of the family what it promises."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.construct import construct
from zoo_core.errors import ZooError
from zoo_core.surgery.freeze import freeze
from zoo_core.surgery.head import swap_head
from zoo_core.surgery.knowledge import anatomy_of
from zoo_core.surgery.split import split
from zoo_core.surgery.stem import adapt_stem, stem_layers
from zoo_core.testing.measure import difference, inside, left_behind, tensors
from zoo_core.testing.running import class_counts, same, scores_of
from zoo_core.testing.specimen import NonConformance, example, need_values, require, specimen
from zoo_core.testing.structure import main_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from zoo_core.card import Card

NUM_CLASSES = 9
"""What heads are swapped to: no library's own number."""
_CHANNELS = (1, 4)


def check_split(card: Card) -> None:
    """``head(pool(features(x)))`` equals ``model(x)`` bit for bit in eval mode."""
    model, x = specimen(card), example(card)
    main_of(card, model)
    backbone, head = split(model)
    ours: Any = x
    steps: dict[str, Callable[[Any], Any]] = {"features": backbone.features, "pool": backbone.pool, "head": head}
    with torch.no_grad():
        for name, step in steps.items():
            ours = _step(card, name, step, ours)
        theirs = scores_of(model, x)
    scores = next(tensors(ours))
    if not same(scores, theirs):
        raise NonConformance(f"{card.id}: split and forward differ by up to {difference(scores, theirs)}")
    shared = {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}
    require(not shared, f"{card.id}: backbone and head have {len(shared)} parameters in common")


def _step(card: Card, name: str, step: Callable[[Any], Any], given: Any) -> Any:  # noqa: ANN401 - features of any kind
    try:
        return step(given)
    except Exception as error:
        shape = list(given.shape) if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
        raise NonConformance(
            f"{card.id}: the {name} of the split fails on {shape}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause="Anatomy.features, pool and classify leave out a step of the model's own forward",
        ) from error


def check_swap(card: Card) -> None:
    """A swap to 9 classes changes head keys only, aux heads and repeated class counts included."""
    model = copy.deepcopy(specimen(card))
    main_of(card, model)
    sites = [head.path for head in anatomy_of(model).heads]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swap_head(model, NUM_CLASSES, seed=0)
    for name, tensor in model.state_dict().items():
        if name not in before or tensor.shape != before[name].shape:
            require(inside(name, sites), f"{card.id}: the swap changed {name}, which is not under {', '.join(sites)}")
        elif not inside(name, sites):
            require(same(tensor, before[name]), f"{card.id}: the swap changed the values of {name}")
    left = _of_classes(card, [name for name in left_behind(model, before) if name not in sites])
    require(not left, f"{card.id}: still {card.num_classes}-way after the swap: {', '.join(left)}")
    stale = [path for path, count in class_counts(model) if 0 < card.num_classes == count != NUM_CLASSES]
    require(
        not stale, f"{card.id}: still {card.num_classes} after the swap: {', '.join(stale)}; name it in Head.attributes"
    )
    with torch.no_grad():
        scores = scores_of(model, example(card))
    shape = tuple(scores.shape)
    dense = card.task != "classification"
    right = shape[:2] == (2, NUM_CLASSES) if dense else shape == (2, NUM_CLASSES)
    require(right, f"{card.id}: {shape} scores after the swap")


def _of_classes(card: Card, paths: list[str]) -> list[str]:
    """Those of some layers that are as wide as there are classes, and not by chance as wide as that."""
    if not paths:
        return []
    try:
        other = construct(card, {**card.options, "num_classes": NUM_CLASSES}, values=False)
    except ZooError:  # its constructor calls it otherwise
        return paths
    widths = [getattr(other.get_submodule(path), "out_features", NUM_CLASSES) for path in paths]
    return [path for path, width in zip(paths, widths, strict=True) if width == NUM_CLASSES]


def check_in_channels(card: Card) -> None:
    """With 1 and 4 channels it runs, and hears every channel; or it refuses, with a reason."""
    x = example(card)
    for channels in _CHANNELS:
        model = copy.deepcopy(specimen(card))
        before = {name: tensor.shape for name, tensor in model.state_dict().items()}
        adapt_stem(model, channels, seed=0)
        layers = stem_layers(model)
        changed = [name for name, tensor in model.state_dict().items() if tensor.shape != before[name]]
        outside = [name for name in changed if not inside(name, [*layers])]
        require(not outside, f"{card.id}: in_channels={channels} changed the shapes of {', '.join(outside)}")
        pictures = x.mean(1, keepdim=True).repeat(1, channels, *[1] * (x.dim() - 2))
        pictures[1] = pictures[0]
        pictures[1, -1] += 1
        heard = _heard(card, model, layers, pictures)
        require(heard, f"{card.id}: with in_channels={channels} the stem {', '.join(layers)} is deaf to the last one")


def _heard(card: Card, model: nn.Module, layers: dict[str, nn.Module], pictures: Tensor) -> bool:
    """Whether the stem answers to the last channel, in which alone the two pictures differ."""
    channels, answers = pictures.shape[1], []
    handles = [layer.register_forward_hook(lambda _, __, made: answers.append(made)) for layer in layers.values()]
    try:
        with torch.no_grad():
            scores = scores_of(model, pictures)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise NonConformance(
            f"{card.id}: forward fails with in_channels={channels}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause=f"a layer besides the stem {', '.join(layers)} sees the picture, or forward looks at its channels",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    require(len(scores) == len(pictures), f"{card.id}: {len(scores)} scores for {len(pictures)} pictures")
    return pictures.is_meta or any(not torch.equal(*made.chunk(2)) for made in answers)


def check_freeze(card: Card) -> None:
    """With a frozen backbone gradients reach the head alone."""
    model = copy.deepcopy(specimen(card))
    if not main_of(card, model).num_classes:  # a place for a head, without parameters yet
        swap_head(model, NUM_CLASSES, seed=0)
    sites = [head.path for head in anatomy_of(model).heads]
    freeze(model, "backbone").train()
    given = [tensor.float().sum() for tensor in tensors(_trained_on(card, model))]
    sum(given).backward()  # type: ignore[union-attr]  # every model gives at least one tensor
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    outside = [name for name in touched if not inside(name, sites)]
    require(not outside, f"{card.id}: gradients outside the head: {', '.join(outside[:5])}")
    require(bool(touched), f"{card.id}: no gradient reached the head")


def _trained_on(card: Card, model: nn.Module) -> object:
    """What a model gives in train mode; an output object is a mapping of tensors, or one that says where they are."""
    given: object = model(example(card))
    return given if next(tensors(given), None) is not None else anatomy_of(model).scores_in(given)


def check_norms(card: Card) -> None:
    """Frozen norms stay as they are through ``train()`` and a forward pass: no running statistic moves."""
    need_values(card)
    model = freeze(copy.deepcopy(specimen(card)), "backbone" if anatomy_of(specimen(card)).heads else "all")
    model.train()
    modules = dict(model.named_modules())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model(example(card))
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)]
    if moved:
        norm = modules[moved[0].rpartition(".")[0]]
        mode = "was put into train mode" if norm.training else "is in eval mode, and is not asked whether it is"
        raise NonConformance(f"{card.id}: moved while frozen: {', '.join(moved[:5])}; the {type(norm).__name__} {mode}")
