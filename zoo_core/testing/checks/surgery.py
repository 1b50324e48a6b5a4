"""The checks of surgery: that it does to every model of the family what it promises."""

from __future__ import annotations

import copy
import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.build.construct import construct
from zoo_core.errors import NotSupported, ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.features.split import split
from zoo_core.surgery.fine_tuning.freeze import freeze
from zoo_core.surgery.head.swap import swap_head
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.stem.adapt import adapt_stem, stem_layers
from zoo_core.testing.checks.structure import main_of
from zoo_core.testing.outputs import class_counts, difference, inside, left_behind, same, scores_of, tensors, width_of
from zoo_core.testing.under_test import (
    DETECTORS,
    NonConformance,
    NotChecked,
    arguments,
    by_shapes,
    example,
    inputs_of,
    model_under_test,
    need_values,
    only_shapes,
    require,
)
from zoo_core.utils.attributes import get_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from zoo_core.contract.card import Card

NUM_CLASSES = 9
"""What heads are swapped to: no library's own number."""
_COUNTS = ("num_classes", "num_labels", "n_classes", "nb_classes")
"""What libraries call the number of classes, and nothing else."""
_CHANNELS = (1, 4)


def check_split(card: Card) -> None:
    """``head(pool(features(x)))`` equals ``model(x)`` bit for bit in eval mode, whatever the parameters are."""
    main_of(card, model_under_test(card))
    if not by_shapes(card):
        _splits(card, noisy(card))
    if not (_splits(card, model_under_test(card)) or _splits(card, _copy_to_split(card))):
        raise NotChecked(f"{card.id} gives the same scores for two images, and those prove nothing of its split")


def _splits(card: Card, model: nn.Module) -> bool:
    """Require that the parts of a split give what the whole gives; whether that proves it, since two images differ."""
    backbone, head = split(model)
    x = example(card)
    ours: Any = x
    steps: dict[str, Callable[[Any], Any]] = {"features": backbone.features, "pool": backbone.pool, "head": head}
    with torch.no_grad():
        for name, step in steps.items():
            ours = _run_part(card, name, step, ours)
        theirs = scores_of(model, x)
    scores = next(tensors(ours))
    if not same(scores, theirs):
        raise NonConformance(f"{card.id}: split and forward differ by up to {difference(scores, theirs)}")
    shared = {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}
    require(not shared, f"{card.id}: backbone and head have {len(shared)} parameters in common")
    return scores.is_meta or bool((scores[0] != scores[1]).any())


def noisy(card: Card) -> nn.Module:
    """A copy with noise on every parameter and buffer that has values, so that a split shows what it leaves out.

    A scale of ones and a gate of zeros hide that a split leaves them out. No number of a buffer gets a smaller one, for
    it may be a variance.
    """
    model = copy.deepcopy(model_under_test(card))
    if by_shapes(card):
        return model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                noise = 0.02 * torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.add_(noise if isinstance(tensor, nn.Parameter) else noise.abs())
    return model


def _copy_to_split(card: Card) -> nn.Module:
    """A copy to split, with norms that know their inputs: an untrained GoogLeNet's signal dies before the head."""
    model = copy.deepcopy(model_under_test(card))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the class of those of any dimension
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches, of which there will be one
    with torch.no_grad():
        model.train()(example(card))
    return model.eval()


def _run_part(card: Card, name: str, step: Callable[[Any], Any], given: Any) -> Any:  # noqa: ANN401 - features of any kind
    """Run one part of a model that surgery has split (features, pool or head); what it raises fails the check."""
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
    model = copy.deepcopy(model_under_test(card))
    main_of(card, model)
    sites = [head.path for head in anatomy_of(model).heads]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swap_head(model, NUM_CLASSES, seed=0)
    for name, tensor in model.state_dict().items():
        if name not in before or tensor.shape != before[name].shape:
            require(inside(name, sites), f"{card.id}: the swap changed {name}, which is not under {', '.join(sites)}")
        elif not inside(name, sites):
            require(same(tensor, before[name]), f"{card.id}: the swap changed the values of {name}")
    _check_left(card, model, before, sites)
    shape = tuple(_swapped_scores(card, model, sites).shape)
    dense = card.task != "classification"
    right = shape[:2] == (2, NUM_CLASSES) if dense else shape == (2, NUM_CLASSES)
    require(right or card.task in DETECTORS, f"{card.id}: {shape} scores after the swap")


def _check_left(card: Card, model: nn.Module, before: Mapping[str, Tensor], sites: list[str]) -> None:
    """After a swap no layer, tensor or integer outside the head sites is still of the old classes."""
    layers = [name for name in left_behind(model, before) if name not in sites]
    counts = [path for path, count in class_counts(model) if 0 < card.num_classes == count != NUM_CLASSES]
    tensors_left = [name for name in _per_class(card, model, sites) if name.rpartition(".")[0] not in layers]
    if not (layers or counts or tensors_left):
        return
    other = _of_other_classes(card, model)
    if other is None:  # then only what it gives says which of them are of the classes, and not by chance as wide
        layers = layers if _gives_old(card, model) else []
        counts = [path for path in counts if path.rpartition(".")[2] in _COUNTS]
        tensors_left = []
    else:
        layers = [path for path in layers if width_of(other.get_submodule(path)) != width_of(model.get_submodule(path))]
        counts = [path for path in counts if (path, card.num_classes) not in class_counts(other)]
        shapes = {name: tensor.shape for name, tensor in (*other.named_parameters(), *other.named_buffers())}
        tensors_left = [name for name in tensors_left if shapes.get(name) != _model_tensor(model, name).shape]
    old = card.num_classes
    require(not layers, f"{card.id}: still {old}-way after the swap: {', '.join(layers)}")
    require(not counts, f"{card.id}: still {old} after the swap: {', '.join(counts)}; name it in Head.attributes")
    require(not tensors_left, f"{card.id}: {_old_count_left(card, tensors_left)}")


def _per_class(card: Card, model: nn.Module, sites: list[str]) -> list[str]:
    """Tensors outside the head sites that may hold a number for each class, and would outlive a swap."""
    known = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [
        name
        for name, tensor in known.items()
        if card.num_classes != NUM_CLASSES and card.num_classes in tensor.shape and not inside(name, sites)
    ]


def _model_tensor(model: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer by its name, to compare a swapped model with one made for its classes."""
    owner, _, leaf = name.rpartition(".")
    result: Tensor = getattr(model.get_submodule(owner), leaf)
    return result


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
    """The same model made for the classes of the swap; None where no argument of its constructor says them."""
    main = main_of(card, model)
    for name in _class_arguments(card):
        try:
            other = construct(card, {**card.options, name: NUM_CLASSES}, values=False)
            width = width_of(other.get_submodule(main.path))
        except (ZooError, AttributeError):
            continue
        if width == NUM_CLASSES * main.per_class:
            return other
    return None


def _class_arguments(card: Card) -> list[str]:
    """Arguments of the constructor that may be the number of classes, to make what a swap should give."""
    names = ["num_classes", *(name for name, value in card.options.items() if value == card.num_classes)]
    try:
        known = inspect.signature(current_zoo().member(card.family).builder(card)).parameters
    except (ValueError, TypeError):  # a class of C, or of a metaclass that does not say
        known = MappingProxyType({})
    return [*dict.fromkeys([*names, *(name for name, each in known.items() if each.default == card.num_classes)])]


def _gives_old(card: Card, model: nn.Module) -> bool:
    """Whether something that a swapped model gives, in eval or in train mode, is still as wide as the old scores."""
    if card.task in DETECTORS:  # they give boxes, and losses
        return True
    outputs = []
    for training in (False, True):
        with torch.no_grad():
            ran = copy.deepcopy(model).train(training)(*inputs_of(card, train=training))
            outputs += [*tensors(ran)] or [*tensors(anatomy_of(model).scores_in(ran))]
    return any(card.num_classes in output.shape[1:] for output in outputs)


def check_in_channels(card: Card) -> None:
    """With 1 and 4 channels it runs, and each channel changes the scores; or zoo refuses, with a reason."""
    x = example(card)
    for path in anatomy_of(model_under_test(card)).channel_attributes:
        number = get_attribute(model_under_test(card), path)
        right = number == x.shape[1]
        require(right, f"{card.id}: channel_attributes has {path!r}, which is {number}, and images have {x.shape[1]}")
    before = {name: tensor.shape for name, tensor in model_under_test(card).state_dict().items()}
    for channels in _CHANNELS:
        model = _adapted(card, channels)
        layers = stem_layers(model)
        changed = [name for name, tensor in model.state_dict().items() if tensor.shape != before[name]]
        outside = [name for name in changed if not inside(name, [*layers])]
        require(not outside, f"{card.id}: in_channels={channels} changed the shapes of {', '.join(outside)}")
        images = x.mean(1, keepdim=True).repeat(1, channels, *[1] * (x.dim() - 2))
        images[1] = images[0]
        images[1, -1] += 1
        heard = _uses_last_channel(card, model, layers, images)
        require(heard, f"{card.id}: with in_channels={channels} the stem {', '.join(layers)} is deaf to the last one")


def _adapted(card: Card, channels: int) -> nn.Module:
    """A copy of the model whose stem was adapted to another number of channels."""
    try:
        return adapt_stem(copy.deepcopy(model_under_test(card)), channels, seed=0)
    except NotSupported:
        if not by_shapes(card):  # a stem that cannot keep its responses takes fresh filters
            return adapt_stem(copy.deepcopy(model_under_test(card)), channels, policy="random", seed=0)
    # It has to be run as far as its stem to see which input comes from which channel. The rest of its memory stays
    # untouched, whatever size it has.
    model = construct(card, card.options, values=False).eval()
    return adapt_stem(model, channels, policy="random", seed=0).to("meta")


def _uses_last_channel(card: Card, model: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> bool:
    """Whether an adapted stem answers to the last channel, in which alone the two images differ."""
    channels, answers = images.shape[1], []
    handles = [layer.register_forward_hook(lambda _, __, made: answers.append(made)) for layer in layers.values()]
    try:
        with torch.no_grad():
            model(*arguments(card, images))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise NonConformance(
            f"{card.id}: forward fails with in_channels={channels}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause=f"a layer besides the stem {', '.join(layers)} sees the image, or forward looks at its channels",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if images.is_meta:
        only_shapes("the answers of the stem")
    return images.is_meta or any(not torch.equal(*made.chunk(2)) for made in answers)


def check_freeze(card: Card) -> None:
    """With another head and a frozen backbone gradients reach the head alone, and all scores are of its classes."""
    model = copy.deepcopy(model_under_test(card))
    main_of(card, model)
    swap_head(model, NUM_CLASSES, seed=0)
    sites = [head.path for head in anatomy_of(model).heads]
    freeze(model, "backbone").train()
    result = [*tensors(_trained_on(card, model))]
    _check_widths(card, model, result)
    sum(each.float().sum() for each in result).backward()  # type: ignore[union-attr]  # every model gives a tensor
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    outside = [name for name in touched if not inside(name, sites)]
    require(not outside, f"{card.id}: gradients outside the head: {', '.join(outside[:5])}")
    require(bool(touched), f"{card.id}: no gradient reached the head")


def _trained_on(card: Card, model: nn.Module) -> object:
    """What a swapped model gives in train mode; an output object is a mapping of tensors, or says where they are."""
    made: object = model(*inputs_of(card, train=True))
    return made if next(tensors(made), None) is not None else anatomy_of(model).scores_in(made)


def _check_widths(card: Card, model: nn.Module, scores: list[Tensor]) -> None:
    """What a swapped model gives in train mode, auxiliary scores included, is of the new classes; or losses."""
    main = main_of(card, model)
    axis = -1 if main.tokens else 1
    shapes = [tuple(each.shape) for each in scores if each.dim() > 1]
    other = [shape for shape in shapes if shape[axis] == card.num_classes != NUM_CLASSES]
    left = "a head that only trains was left out; name it in Anatomy.heads"
    require(not other, f"{card.id}: after a swap to {NUM_CLASSES} classes it trains on scores of {other[:1]}: {left}")


def check_norms(card: Card) -> None:
    """Frozen norms stay as they are through ``train()`` and a forward pass: no running statistic moves."""
    need_values(card)
    model = copy.deepcopy(model_under_test(card))
    freeze(model, "backbone" if anatomy_of(model).heads else "all")
    model.train()
    modules = dict(model.named_modules())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model(*inputs_of(card, train=True))
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)]
    if moved:
        norm = modules[moved[0].rpartition(".")[0]]
        mode = "was put into train mode" if norm.training else "is in eval mode, and does not follow the model"
        raise NonConformance(f"{card.id}: moved while frozen: {', '.join(moved[:5])}; the {type(norm).__name__} {mode}")
