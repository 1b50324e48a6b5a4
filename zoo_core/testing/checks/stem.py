"""The checks of the stem: that it is the layers that see the image first, and takes other numbers of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zoo_core.build.construct import construct
from zoo_core.contract.card import Card
from zoo_core.errors import NotSupported, ZooError
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.surgery.stem.adapt import adapt_stem, stem_layers
from zoo_core.testing.checks.swap import known_arguments
from zoo_core.testing.findings import NonConformance, only_shapes, require
from zoo_core.testing.under_test import (
    arguments,
    by_shapes,
    example,
    inputs_of,
    inside,
    model_under_test,
    parameters_used,
    tensors,
)
from zoo_core.utils.attributes import get_attribute, set_attribute
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.hooks import removing
from zoo_core.utils.meta_shapes import MetaShapes

_CHANNELS = (1, 4)
_COUNTS = ("in_channels", "in_chans", "num_channels", "n_channels", "input_channels")
"""What libraries call the number of input channels."""
_CLOSE = 1e-5


def check_stem(card: Card) -> None:
    """The stem is the layers that see the image first, and all of those."""
    model = model_under_test(card)
    order = layers_in_order(model, inputs_of(card))
    first = next(iter(order))
    _check_are_layers(card, model, first)
    stem = stem_layers(model)
    for path in stem:
        require(path in order, f"{card.id}: stem {path!r} is never called")
    require(first in stem, f"{card.id}: stem {', '.join(stem)} does not come first: {first!r} runs before it")
    beside = [path for path, sees_image in order.items() if sees_image and path not in stem]
    require(not beside, f"{card.id}: {', '.join(beside)} is given the image too, and is not in the stem")
    if len(stem) > 1:
        _check_side_by_side(card, model, stem)


def _check_are_layers(card: Card, model: nn.Module, first: str) -> None:
    """No path of the stem is a norm: it has a number for each channel of what it is given, and no filters.

    One that runs before all layers sees the image itself, as that of the patches of a vit-pytorch does.
    """
    modules = dict(model.named_modules())
    for path in (path for path in anatomy_of(model).stem if path != first):
        weight = getattr(modules.get(path), "weight", None)
        require(
            not isinstance(weight, torch.Tensor) or weight.dim() > 1,
            f"{card.id}: stem {path!r} is a {type(modules.get(path)).__name__}, and no convolution or linear layer: "
            "the stem is the layers that see the image",
        )


def _check_side_by_side(card: Card, model: nn.Module, stem: dict[str, nn.Module]) -> None:
    """No layer of a stem of several is given what another one makes of the image."""
    after: dict[str, str] = {}

    def note(path: str, taken: tuple[object, ...]) -> None:
        used = [name for each in tensors(taken) for name in parameters_used(model, each)]
        before = [other for other in stem if any(inside(name, [other]) for name in used)]
        if before:
            after[path] = before[0]

    handles = (
        layer.register_forward_pre_hook(lambda _, taken, path=path: note(path, taken)) for path, layer in stem.items()
    )
    with removing(handles), torch.enable_grad():
        model(*inputs_of(card))
    for path, other in after.items():
        raise NonConformance(
            f"{card.id}: stem {path!r} is given what {other!r} makes of the image: the stem is the layers that see the "
            "image itself, whose filters zoo.adapt_stem changes"
        )


def check_in_channels(card: Card) -> None:
    """With a stem for 1 and 4 channels it runs, and each channel changes the scores; or zoo refuses, with a reason."""
    x = example(card)
    _check_scaling(card, x)
    _check_numbers(card, x)
    before = {name: tensor.shape for name, tensor in model_under_test(card).state_dict().items()}
    for channels in _CHANNELS:
        model = _adapted(card, channels)
        layers = stem_layers(model)
        changed = [name for name, tensor in model.state_dict().items() if tensor.shape != before[name]]
        outside = [name for name in changed if not inside(name, [*layers, *anatomy_of(model).per_channel])]
        require(not outside, f"{card.id}: in_channels={channels} changed the shapes of {', '.join(outside)}")
        left = [path for path, number in _channel_counts(model) if number == x.shape[1] != channels]
        require(
            not left,
            f"{card.id}: still {x.shape[1]} with in_channels={channels}: {', '.join(left)}; name it in "
            "Anatomy.channel_attributes",
        )
        images = x.mean(1, keepdim=True).repeat(1, channels, *[1] * (x.dim() - 2))
        images[1] = images[0]
        images[1, -1] += 1
        heard = _uses_last_channel(card, model, layers, images)
        require(heard, f"{card.id}: with in_channels={channels} the stem {', '.join(layers)} is deaf to the last one")
        if channels < x.shape[1]:
            _check_switches(card, model, images)


def _check_numbers(card: Card, x: Tensor) -> None:
    """What the anatomy says to be numbers of the stem's channels, or numbers for each of them, is that."""
    model, count = model_under_test(card), x.shape[1]
    anatomy, other = anatomy_of(model), None
    for path in anatomy.channel_attributes:
        number = get_attribute(model, path)
        right = number == count
        require(right, f"{card.id}: channel_attributes has {path!r}, which is {number}, and images have {count}")
    for path in anatomy.per_channel:
        value: Any = get_attribute(model, path)
        is_tensor = isinstance(value, torch.Tensor)
        right = value.numel() == count if is_tensor else isinstance(value, Sequence) and len(value) == count
        require(right, f"{card.id}: per_channel has {path!r}, which is {value}, and no {count} numbers")
    for name in _COUNTS if anatomy.channel_attributes else ():
        if name in known_arguments(card):
            with suppress(ZooError):  # it refuses one channel
                other = construct(card, {**card.options, name: 1}, values=False)
    for path in anatomy.channel_attributes if other else ():
        number = get_attribute(cast("nn.Module", other), path)
        require(
            number == 1,
            f"{card.id}: channel_attributes has {path!r}, which is {number} in a model of one channel too: it is no "
            "number of channels, and zoo.adapt_stem would change it",
        )


def _check_switches(card: Card, model: nn.Module, images: Tensor) -> None:
    """No flag of the model, once it is on, lets it look at channels that its adapted stem has not."""
    scaling = anatomy_of(model_under_test(card)).scaling
    flags = [name for name, value in vars(model).items() if value is False and name != "training"]
    flags = [name for name in flags if not name.startswith("_") and (scaling is None or name != scaling.switch)]
    for name in flags:
        fails = _fails_with(name, model, arguments(card, images))
        if fails and not _fails_with(name, model_under_test(card), arguments(card, example(card))):
            raise NonConformance(
                f"{card.id}: with {name} on, forward fails with in_channels={images.shape[1]}, and it does not with "
                f"{card.input_size[0]}",
                cause="it computes something of each channel by its number before the stem",
                hint=f"Anatomy(..., scaling=InputScaling({name!r}, scale=..., shift=..., norm=...)) says what",
            )


def _fails_with(flag: str, model: nn.Module, given: tuple[Any, ...]) -> bool:
    """Whether a copy without values, of which this flag is on, fails on what a check of the stem gives it."""
    bare = without_values(model)
    setattr(bare, flag, True)
    try:
        with torch.no_grad(), MetaShapes():
            bare(*tree_map(lambda each: each.to("meta") if isinstance(each, torch.Tensor) else each, given))
    except Exception:  # noqa: BLE001 - however it refuses
        return True
    return False


def _channel_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """In the check of the stem, the integers taken for numbers of input channels, by path; those of layers are theirs.

    A layer inside, of which another number of channels comes in, has a weight of that width.
    """
    for path, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor):
            continue
        for owner, around in ((module, path), (vars(module).get("config"), f"{path}.config".lstrip("."))):
            numbers = ((name, getattr(owner, name, None)) for name in _COUNTS)
            yield from ((f"{around}.{name}".lstrip("."), number) for name, number in numbers if type(number) is int)


def _check_scaling(card: Card, x: Tensor) -> None:
    """What the model does to each channel before its stem is what ``Anatomy.scaling`` says, and its norm is next."""
    scaling = anatomy_of(model_under_test(card)).scaling
    if scaling is None:
        return
    label = f"{card.id}: Anatomy.scaling"
    count = x.shape[1]
    counted = f"{label} has {len(scaling.scale)} numbers for images of {count} channels"
    require(len(scaling.scale) == count, counted)
    model = duplicate(model_under_test(card))
    switch = get_attribute(model, scaling.switch)
    require(isinstance(switch, bool), f"{label}: its switch {scaling.switch!r} is {switch!r}, and neither on nor off")
    norm = dict(model.named_modules()).get(scaling.norm)
    found = f"{type(norm).__name__}, and no batch norm with a running mean" if norm is not None else "no module"
    if norm is None or not isinstance(getattr(norm, "running_mean", None), torch.Tensor):
        raise NonConformance(f"{label}: its norm {scaling.norm!r} is a {found}")
    if by_shapes(card):
        only_shapes("what is scaled")
        return
    layer = next(iter(stem_layers(model).values()))
    given: list[Tensor] = []
    hooks = [each.register_forward_pre_hook(lambda _, taken: given.append(taken[0])) for each in (layer, norm)]
    hooks.append(layer.register_forward_hook(lambda _, __, output: given.append(output)))
    with removing(hooks), torch.no_grad():
        for on in (True, False):
            set_attribute(model, scaling.switch, value=on)
            model(*arguments(card, x))
    scaled, stem, normed, plain, *_ = given
    require(stem is normed, f"{label}: its norm {scaling.norm!r} is not given what the stem makes of the image")
    scale, shift = (torch.tensor(each).view(1, -1, *[1] * (x.dim() - 2)) for each in (scaling.scale, scaling.shift))
    for switched, expected, what in ((scaled, x * scale + shift, "x * scale + shift"), (plain, x, "the image")):
        right = switched.shape == x.shape and torch.allclose(switched, expected, atol=_CLOSE)
        word = "on" if switched is scaled else "off"
        require(right, f"{label}: with {scaling.switch} {word} the stem is given something other than {what}")


def _adapted(card: Card, channels: int) -> nn.Module:
    """A copy of the model whose stem was adapted to another number of channels."""
    try:
        return adapt_stem(duplicate(model_under_test(card)), channels, seed=0)
    except NotSupported:
        if not by_shapes(card):  # a stem that cannot keep its responses takes fresh filters
            return adapt_stem(duplicate(model_under_test(card)), channels, policy="random", seed=0)
    # It has to be run as far as its stem to see which input comes from which channel. The rest of its memory stays
    # untouched, whatever size it has.
    model = construct(card, card.options, values=False).eval()
    return adapt_stem(model, channels, policy="random", seed=0).to("meta")


def _uses_last_channel(card: Card, model: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> bool:
    """Whether an adapted stem answers to the last channel, in which alone the two images differ."""
    channels, answers = images.shape[1], []
    handles = (layer.register_forward_hook(lambda _, __, made: answers.append(made)) for layer in layers.values())
    try:
        with removing(handles), torch.no_grad():
            model(*arguments(card, images))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise NonConformance(
            f"{card.id}: forward fails with in_channels={channels}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause=f"a layer besides the stem {', '.join(layers)} sees the image, or forward looks at its channels",
        ) from error
    if images.is_meta:
        only_shapes("the answers of the stem")
    return images.is_meta or any(not torch.equal(*made.chunk(2)) for made in answers)


def layers_in_order(model: nn.Module, given: tuple[Any, ...]) -> dict[str, bool]:
    """Run a model to check its stem: layers in the order of their first call, and whether each is given the image.

    A layer is a module with a weight of its own.
    """
    result: dict[str, bool] = {}
    images = [*tensors(given)]

    def note(path: str, taken: tuple[object, ...]) -> None:
        sees = any(isinstance(each, torch.Tensor) and _is_one_of(images, each) for each in taken)
        result[path] = result.get(path, False) or sees

    handles = [
        module.register_forward_pre_hook(lambda _, taken, path=path: note(path, taken))
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
    ]
    with removing(handles), torch.no_grad():
        model(*given)
    return result


def _is_one_of(images: list[Tensor], given: Tensor) -> bool:
    """Whether a layer is given one of the images themselves, as the check of the stem has to know."""
    return any(
        given is x or (not given.is_meta and given.shape == x.shape and given.data_ptr() == x.data_ptr())
        for x in images
    )
