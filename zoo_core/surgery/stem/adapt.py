"""Giving a model another number of input channels, its pretrained filters kept: tried on a copy first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zoo_core.contract.anatomy import Anatomy, InputScaling
from zoo_core.errors import NotSupported
from zoo_core.surgery.adapters import lora_layers
from zoo_core.surgery.editing import editing
from zoo_core.surgery.features.forward import run_forward
from zoo_core.surgery.inputs import channels_told
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.surgery.noise import placed
from zoo_core.surgery.stem.filters import (
    ChannelMap,
    Order,
    Plan,
    Policy,
    check_response,
    computes_filters,
    dense_filters,
    effective_filters,
    fit_gain,
    order_of,
    plan_channels,
)
from zoo_core.surgery.structure import under
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.attributes import get_attribute, set_attribute
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.memory_format import follows, with_channels_last
from zoo_core.utils.meta_shapes import MetaShapes
from zoo_core.utils.random_state import seeded

Model = TypeVar("Model", bound=nn.Module)

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_SIGNAL = 3
"""Axes of ``[N, C, L]``."""


@strict_arguments
def adapt_stem(
    model: Model,
    in_channels: int,
    *,
    policy: Policy | None = None,
    map: ChannelMap | None = None,  # noqa: A002 - it maps new channels to old ones, and no other word says so
    seed: int | None = None,
) -> Model:
    """Give ``model`` another number of input channels, and keep what its first layers have learnt.

    The layers keep their class, their keys in the state dict, stride, padding, bias, device, dtype, memory format and
    whether they are frozen. Only their weights change, so build the optimizer afterwards. With old filters ``w`` over
    ``C`` channels and ``n`` new channels:

    - ``"mean"``: every channel gets ``sum(w) / n``. An image whose channels are all equal gives the very response
      that it gave before; one channel gets the sum, and sees in grey what the network saw in grey RGB.
    - ``"repeat"``: the old filters over and over, rescaled as a whole so that white noise gives responses of the same
      size as before: by ``sqrt(C / n)`` when ``n`` is a multiple of ``C``.
    - ``"zero"``: the first channels keep their filters, further ones start silent: the scores do not depend on them
      until training makes them. Fewer channels than before drop the last filters.
    - ``"random"``: fresh filters, drawn as torch draws those of a new layer.
    - ``map={new: old}``: each new channel gets the filters of that old one, or the mean of several; a new channel that
      is not in the map starts silent.

    The default is ``"mean"`` for one channel, as in timm, fastai and segmentation_models_pytorch, because a grey
    image then means what it meant; and ``"repeat"`` for any other number, the cyclic copy of timm and
    segmentation_models_pytorch with another factor: theirs is ``C / n``, which is right for channels that are all equal
    and makes responses too small where they differ.

    The means and deviations in the weights' ``Preprocessing`` belong to the old channels. Normalize each new channel
    with those of the old one it comes from, their average under ``"mean"``, and those of your own data for one that is
    silent or random. A model that normalizes inside has its own numbers brought along in that way, lists that its
    family declares and buffers that a trace finds; and GoogLeNet's and Inception's ``transform_input`` is switched off
    and folded into the filters and the batch norm after them.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        in_channels: How many channels its images have from now on.
        policy: One of the above; None is the default, and leaves a model alone that has that many channels already.
        map: New channel to old channel, or to several; instead of a policy.
        seed: Makes ``"random"`` reproducible without touching the global random state.

    Returns:
        The same model.

    Raises:
        UsageError: An argument is impossible; the message says what is possible.
        NotSupported: The first layers are not convolutions or linear layers with a weight of their own, or they
            standardize it and have no gain that could keep their responses; ``"random"`` works for those. Or something
            else in a model that was traced is made for the old channels too. Nothing was changed.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.adapt_stem(zoo.get("resnet18", weights=None), 4, policy="zero")
        >>> model.conv1, model(torch.zeros(1, 4, 64, 64)).shape
        (Conv2d(4, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False), torch.Size([1, 1000]))
    """
    check_count("in_channels", in_channels)
    _refuse_adapter(model)
    layers = stem_layers(model)
    bare = unwrap(model)
    told, size, is_traced = channels_told(model), _size(model), metadata_of(bare).example is not None
    orders = {path: order_of(bare, layer, told, size, is_traced=is_traced) for path, layer in layers.items()}
    old_count = next(iter(orders.values())).channels
    if policy is None and map is None and in_channels == old_count:
        return model
    plan = plan_channels(in_channels, old_count, policy, map)
    for layer in layers.values():
        check_response(layer, plan, old_count)
    with editing(model, "adapt_stem", record={"in_channels": in_channels, "policy": policy, "map": map}) as edit:
        example = metadata_of(bare).example
        if example is not None:
            adapt = partial(_adapt_twin, edit.anatomy, orders, plan)
            example = _adapted_example(bare, example, old_count, in_channels, adapt)
        changed = _adapt(bare, edit.anatomy, layers, orders, plan, seed)
        before = metadata_of(bare).receipt.tensors
        is_new = plan.policy == "random"
        edit.outcomes.update(
            {name: "initialized" if is_new or before.get(name) == "initialized" else "adapted" for name in changed}
        )
        edit.update(anatomy=replace(edit.anatomy, scaling=None), example=example)
    return model


def _refuse_adapter(model: nn.Module) -> None:
    """Refuse to adapt a stem while it has a LoRA adapter for its present channels."""
    stem = anatomy_of(model).stem
    inside = [path for path in lora_layers(unwrap(model)) if any(under(path, each) for each in stem)]
    if inside:
        raise NotSupported(
            f"the stem of this {type(unwrap(model)).__name__} has a LoRA adapter for its present channels",
            got=f"one at {inside[0]!r}",
            done="nothing was changed",
            hint="zoo.merge_lora(model) first, or zoo.adapt_stem before zoo.add_lora",
        )


def _adapt(
    model: nn.Module,
    anatomy: Anatomy,
    layers: dict[str, nn.Module],
    orders: dict[str, Order],
    plan: Plan,
    seed: int | None,
) -> list[str]:
    """Adapt the first layers: give them their new filters, and return the names of the tensors that changed."""
    old_count = next(iter(orders.values())).channels
    scaling = anatomy.scaling
    folds = scaling is not None and bool(get_attribute(model, scaling.switch))
    with torch.no_grad(), seeded(seed, model):
        new = {
            path: _new_weight(layer, orders[path], plan, scaling if folds else None) for path, layer in layers.items()
        }
        changed = _fold(model, scaling, layers) if scaling and folds and plan.policy != "random" else []
        standardizing = {path: plan.policy != "random" and computes_filters(layer) for path, layer in layers.items()}
        for path, layer in layers.items():
            weight = with_channels_last(new[path]) if follows(layer, model) else new[path]
            _install(model, path, layer, weight, old_count, plan.count)
            if standardizing[path]:
                fit_gain(layer, new[path])
                changed.append(f"{path}.gain")
    if scaling:
        set_attribute(model, scaling.switch, value=False)
    return [*(f"{path}.weight" for path in layers), *changed, *_adapt_numbers(model, anatomy, plan)]


def _adapt_numbers(model: nn.Module, anatomy: Anatomy, plan: Plan) -> list[str]:
    """Adapt what has one number for each channel before the stem, or says how many there are; names of the tensors."""
    changed = []
    for path in anatomy.per_channel:
        numbers = get_attribute(model, path)
        if not isinstance(numbers, Tensor):
            set_attribute(model, path, plan.numbers(numbers))
        elif numbers.numel() > 1:  # a single one is that of all channels
            set_attribute(model, path, plan.numbers_of(numbers))
            changed.append(path)
    for path in anatomy.channel_attributes:
        set_attribute(model, path, plan.count)
    return changed


def _adapt_twin(anatomy: Anatomy, orders: dict[str, Order], plan: Plan, twin: nn.Module) -> None:
    """Adapt the first layers of a copy of the model, to see whether it runs then."""
    _adapt(twin, anatomy, {path: twin.get_submodule(path) for path in orders}, orders, plan, seed=0)


def stem_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The first layers of ``model`` to adapt, by path: all those that see the image.

    Raises:
        NotSupported: There are none, or one is neither a convolution nor a linear layer with a weight of its own.
    """
    bare, paths = unwrap(model), anatomy_of(model).stem
    if not paths:
        raise NotSupported(f"the anatomy of this {type(bare).__name__} names no stem", hint="change its input by hand")
    return dict(_first_layer(bare, path) for path in paths)


def _first_layer(model: nn.Module, path: str) -> tuple[str, nn.Module]:
    """The layer to adapt at a path of the stem, or the first one inside it."""
    for inner, layer in model.get_submodule(path).named_modules(prefix=path):
        if isinstance(layer, _LAYERS):
            if isinstance(layer._parameters.get("weight"), nn.Parameter):  # noqa: SLF001 - a parametrised weight is no parameter
                return inner, layer
            break
        if next(layer.parameters(recurse=False), None) is not None:
            break
    raise NotSupported(
        f"the stem {path!r} of this {type(model).__name__} cannot be adapted",
        expected="a convolution or a linear layer with a weight of its own",
        got=str(model.get_submodule(path)).partition("\n")[0],
        cause="it is another kind of layer, or its weight is computed, as by torch.nn.utils.parametrizations",
    )


def _size(model: nn.Module) -> tuple[int, ...]:
    """Rows and columns of the images that a stem is adapted with; frames before them, and one side of a signal."""
    known = metadata_of(model)
    if isinstance(known.example, Tensor) and known.example.dim() >= _SIGNAL:
        return tuple(known.example.shape[2:])
    return known.designed_size(unwrap(model))[-2:]


def _new_weight(layer: nn.Module, order: Order, plan: Plan, scaling: InputScaling | None) -> Tensor:
    """The weight of a first layer adapted to other input channels, from its old filters and a plan."""
    old = effective_filters(layer) if plan.policy != "random" and computes_filters(layer) else dense_filters(layer)
    wide = order.by_channel(old if old.dtype.itemsize >= 4 else old.float())  # noqa: PLR2004 - halves round too early
    if scaling:
        factors = torch.tensor(scaling.scale, device=wide.device, dtype=wide.dtype)
        wide = wide * factors.view(1, -1, *[1] * (wide.dim() - 2))
    return order.by_input(plan.filters(wide)).to(old.dtype).contiguous()


def _install(model: nn.Module, path: str, layer: nn.Module, weight: Tensor, old: int, new: int) -> None:
    """Put the adapted weight into the stem, and the new number of channels where layer and owners repeat the old."""
    frozen = not cast("Tensor", layer.weight).requires_grad
    layer.weight = nn.Parameter(weight, requires_grad=not frozen)
    if isinstance(layer, nn.Linear):
        layer.in_features = weight.shape[1]
    else:
        layer.in_channels, layer.groups = weight.shape[1], 1  # type: ignore[assignment]
    names = path.split(".")
    for owner in (model.get_submodule(".".join(names[:depth])) for depth in range(len(names))):
        for name in ("in_channels", "in_chans"):
            if owner.__dict__.get(name) == old:
                setattr(owner, name, new)


def _fold(model: nn.Module, scaling: InputScaling, layers: dict[str, nn.Module]) -> list[str]:
    """As a stem is adapted, take what the shift of each channel adds out of the mean that the norm expects.

    Exact but at the border of a padded image, where the padding was not shifted.
    """
    norm = model.get_submodule(scaling.norm)
    mean = cast("Tensor | None", norm.running_mean)
    if mean is None:
        return []
    for layer in layers.values():
        weight = dense_filters(layer)
        shift = torch.tensor(scaling.shift, device=weight.device, dtype=weight.dtype)
        mean -= weight.flatten(2).sum(2) @ shift
    return [f"{scaling.norm}.running_mean"]


def _adapted_example(model: nn.Module, example: Any, old: int, new: int, adapt: Callable[[nn.Module], None]) -> Any:
    """The example of a traced model adapted to other channels, on which an adapted copy of the model has run.

    It runs without values, or with them where the model does not run without. A model that runs in neither way, as one
    that takes no batch of one, is believed.

    Raises:
        NotSupported: The copy does not run: a layer or tensor beside the stem is made for the old channels too.
    """
    wider = tree_map(lambda each: _adapt_example(each, old, new), example)
    for copied in (without_values, duplicate):
        twin = copied(model)
        try:
            _run_stem_copy(twin, example)
        except Exception:  # noqa: BLE001, S112 - the model's own code, which may need values
            continue
        adapt(twin)
        try:
            _run_stem_copy(twin, wider)
        except Exception as error:
            place = _failing_module(twin, error)
            raise NotSupported(
                f"the input of this {type(model).__name__} cannot have {new} channels",
                got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
                done="nothing was changed",
                cause=f"with a stem for {new} channels its forward fails in {place}: something there is made for {old} "
                "channels too, and was not found to be of the stem",
                hint="build it for that many channels, and zoo.load_partial gives it the tensors that fit",
            ) from error
        break
    return wider


def _adapt_example(value: Any, old: int, new: int) -> Any:
    """A part of the example of a model whose stem is adapted: with the new number of channels, if it is an image."""
    is_image = isinstance(value, Tensor) and value.dim() >= _SIGNAL and value.shape[1] == old
    return value[:, :1].expand(-1, new, *value.shape[2:]).clone() if is_image else value


def _run_stem_copy(model: nn.Module, x: Any) -> None:
    """Run a copy of the model whose stem is to be adapted, on its own device."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model), MetaShapes():
        run_forward(model, placed(model, x))


def _failing_module(model: nn.Module, error: BaseException) -> str:
    """Path of the innermost module that was running when a copy with an adapted stem failed, in quotes."""
    paths = {id(module): path for path, module in model.named_modules()}
    trace, result = error.__traceback__, ""
    while trace is not None:
        result = paths.get(id(trace.tb_frame.f_locals.get("self")), result)
        trace = trace.tb_next
    return repr(result) if result else f"the forward of {type(model).__name__} itself"
