"""What a whole module that was pickled says of its layers beyond names and shapes of tensors, without importing it.

``torch.save(model)`` writes the settings of every layer: the eps of norms, strides, activations, layers without any
tensor. A model that is built from a name is compared with them. What differs is done to it where it is a layer of
torch.nn or a plain setting; all else is named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn

from zoo_core.errors import ZooError
from zoo_core.surgery.head.describe import LAYERS, Layers, describe
from zoo_core.text import first_few
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.random_state import seeded
from zoo_core.weights.checkpoint.candidates import children_of
from zoo_core.weights.formats.outline import is_tensor
from zoo_core.weights.formats.plain_pickle import Foreign, Name

_LARGEST = 1 << 20
"""No setting of any layer comes near it."""
_LONGEST = 32
_WIDTHS = {"in_features", "out_features", "in_channels", "out_channels", "num_classes", "in_chans"}
"""Settings that follow from the shapes of tensors, by which head and first layer are met."""
_FROM_ONE = {"stride", "dilation", "kernel_size", "groups", "num_groups", "num_heads"}
"""Settings with which no layer computes anything where they are below 1; constructors of torch let them pass."""
_ODD = (ZooError, RuntimeError, AttributeError, KeyError, TypeError, ValueError)
"""What is raised for a layer of which a file says what cannot be: it may say anything."""
_RENAMED = {"ConvBNReLU", "ConvBNActivation", "ConvNormActivation", "Conv2dNormActivation"}
"""What torchvision has called one sequence of convolution, norm and activation."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True)
class Difference:
    """A layer that is another in a pickled module than in the model that zoo builds.

    Attributes:
        path: Where it is in the model.
        words: What differs.
        layer: What is in the file; None where nothing is.
        settings: Values that the file has for attributes of a layer of the same class.
    """

    path: str
    words: str
    layer: Foreign | None = None
    settings: Mapping[str, Any] | None = None


def meet_layers(model: nn.Module, module: Foreign, refused: Collection[str] = ()) -> list[Difference]:
    """Change ``model`` as the whole module in a file was changed, as far as layers of torch.nn and settings go.

    Args:
        model: Built from its name; changed in place.
        module: What is in the file for it.
        refused: Settings of the whole model that its constructor does not take.

    Returns:
        What is left.
    """
    for each in list(differences(model, module)):
        new = _built(each.layer, model) if each.path and each.layer else None
        if new is not None:
            owner, _, name = each.path.rpartition(".")
            parent = model.get_submodule(owner)
            old = parent._modules.get(name)  # noqa: SLF001 - it may be None there
            parent._modules[name] = new.train(parent.training if old is None else old.training)  # noqa: SLF001 - as above
        elif each.settings and not (each.layer and _stand_in(each.layer)):  # what torch does not build cannot run
            _set(model.get_submodule(each.path), each.settings, () if each.path else refused)
    return list(differences(model, module))


def _set(layer: nn.Module, settings: Mapping[str, Any], refused: Collection[str]) -> None:
    if layer._non_persistent_buffers_set:  # noqa: SLF001 - these are computed from settings when it is built
        return
    for name, value in settings.items():
        if name not in refused and _can_run(name, value):
            setattr(layer, name, value)


def differences(now: nn.Module, there: Foreign, path: str = "") -> Iterator[Difference]:
    """Where a pickled module is another than one that was built, the outermost places first."""
    kind = type(now).__name__
    word = there.name.rpartition(".")[2]
    children = children_of(there)
    is_other = not _same_kind(kind, word) and not _is_renamed(now, there)
    is_ordered = isinstance(now, nn.Sequential) and [*children] != [name for name, _ in now.named_children()]
    if is_other or is_ordered:
        inner = ", ".join(each.name.rpartition(".")[2] for each in children.values() if each)
        words = f"{word} in the file, {kind} here" if is_other else f"{inner} in the file"
        yield Difference(path, words, there)
    if path and (is_other or is_ordered):
        return
    if code := _code(there, now):
        yield Difference(path, code)
    if settings := _settings(now, there):
        words = ", ".join(f"{name}={value!r} in the file" for name, value in [*settings.items()][:3])
        yield Difference(path, words, there if type(now) in LAYERS.values() else None, settings)
    dot = f"{path}." if path else ""
    for name in dict.fromkeys([*children, *now._modules]):  # noqa: SLF001 - with those that are None
        mine, theirs = now._modules.get(name), children.get(name)  # noqa: SLF001 - as above
        if mine is not None and theirs is not None:
            yield from differences(mine, theirs, f"{dot}{name}")
        elif theirs is not None:
            yield Difference(f"{dot}{name}", f"{theirs.name.rpartition('.')[2]} in the file, nothing here")
        elif mine is not None:
            yield Difference(f"{dot}{name}", f"nothing in the file, {type(mine).__name__} here")


def options_in(model: nn.Module, module: Foreign, image_size: str | None) -> dict[str, Any]:
    """What the constructor of a pickled model was given, as far as that differs.

    Args:
        model: As its constructor made it here.
        module: What is in the file.
        image_size: The option for that, which the layer that cuts the patches has written down too.
    """
    taken = signature(type(model).__init__).parameters
    result = {name: each for name, each in _settings(model, module, any_shape=True).items() if name in taken}
    for name, child in children_of(module).items():
        mine = model._modules.get(name)  # noqa: SLF001 - it may be None there
        settings = _settings(mine, child, any_shape=True) if mine is not None and child else {}
        result |= {option: size for option, size in settings.items() if option == image_size}
    return result


def in_words(every: list[Difference]) -> str:
    """The first few differences of a pickled module's layers, for a message."""
    return first_few([f"{each.path or 'the model'!s} ({each.words})" for each in every], 4)


def _same_kind(kind: str, other: str) -> bool:
    norms = {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"}
    return kind == other or {kind, other} <= norms


def _is_renamed(now: nn.Module, there: Foreign) -> bool:
    """Whether a sequence is of a class that its library has renamed since."""
    words = {type(now).__name__, there.name.rpartition(".")[2]}
    mine = {name: type(child).__name__ for name, child in now.named_children()}
    theirs = {name: each.name.rpartition(".")[2] for name, each in children_of(there).items() if each}
    is_same = [*mine] == [*theirs] and all(_same_kind(kind, theirs[name]) for name, kind in mine.items())
    return isinstance(now, nn.Sequential) and bool(mine) and words <= _RENAMED and is_same


def _can_run(name: str, value: object) -> bool:
    numbers = value if isinstance(value, tuple | list) else [value]
    return name not in _FROM_ONE or all(not isinstance(each, int | float) or each >= 1 for each in numbers)


def _code(there: Foreign, now: nn.Module) -> str:
    """Code of its own that a pickled module has: a forward, hooks, another function for an activation."""
    state = _state(there)
    if "forward" in state:
        return "a forward of its own in the file"
    for name, value in state.items():
        mine = getattr(now, name, None)
        if type(value) is Name and callable(mine) and hasattr(mine, "__name__"):
            word = value.rpartition(".")[2]
            if word != mine.__name__ and not isinstance(mine, type):
                return f"{name}={word} in the file, {mine.__name__} here"
    for name in _HOOKS:
        held = state.get(name)
        hooks = [*held.values()] if isinstance(held, Mapping) else []
        if hooks and not getattr(now, name) and not all(_is_ours(each) for each in hooks):
            return "hooks in the file"
    return ""


def _is_ours(hook: object) -> bool:
    """Whether a hook of a pickled module is one of zoo's own."""
    name = hook.name if isinstance(hook, Foreign) else str(hook)
    inner = [each for each in hook.arguments if isinstance(each, Name)] if isinstance(hook, Foreign) else []
    return any(each.startswith("zoo_core.") for each in (name, *inner))


def _settings(now: nn.Module, there: Foreign, *, any_shape: bool = False) -> dict[str, Any]:
    """Plain values that a pickled module has and the built one of the same class has not."""
    mine = vars(now)
    result = {
        name: value
        for name, value in _state(there).items()
        if name in mine
        and not name.startswith("_")
        and name not in _WIDTHS | {"training"}
        and _is_plain(value)
        and _is_plain(mine[name])
        and _listed(value) != _listed(mine[name])
    }
    # a layer of torch.nn is built again in the shapes of the file; the settings of others may follow from their shapes
    is_comparable = any_shape or type(now) in LAYERS.values() or _own_shapes(there) == _shapes_of(now)
    return result if is_comparable else {}


def _state(there: Foreign) -> Mapping[str, Any]:
    state = there.state if isinstance(there.state, dict) else {}
    return {name: value for name, value in state.items() if isinstance(name, str)}


def _listed(value: object) -> object:
    return [*value] if isinstance(value, tuple | list) else value


def _is_plain(value: object) -> bool:
    """Whether a pickled layer may say this value of a setting: a number, a short word, or some of these."""
    if isinstance(value, tuple | list):
        return all(_is_plain(each) and not isinstance(each, tuple | list) for each in value)
    if isinstance(value, str):
        return type(value) is str and len(value) <= _LONGEST and value.replace("_", "").isalnum()
    return value is None or (isinstance(value, bool | int | float) and abs(value) <= _LARGEST)


def _tensors(there: Foreign) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the parameters of a pickled module; None for those that it is without."""
    held = _state(there).get("_parameters")
    every = held.items() if isinstance(held, Mapping) else ()
    return {str(name): tuple(each.shape) if is_tensor(each) else None for name, each in every}


def _own_shapes(there: Foreign) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in _tensors(there).items() if shape is not None}


def _shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in module.named_parameters(recurse=False)}


def _built(there: Foreign, model: nn.Module) -> nn.Module | None:
    """A layer of torch.nn, or a sequence of them, as a pickle describes it; None where it is something else."""
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0, device="cpu"))
    with seeded(0, model), on_the_cpu():  # what is drawn here is replaced by what is in the file
        try:
            stand_in = _stand_in(there)
            layer = describe(stand_in) if stand_in is not None else None
            return layer.build().to(like.dtype) if isinstance(layer, Layers) else None
        except _ODD:
            return None


def _stand_in(there: Foreign) -> nn.Module | None:
    """A layer of torch.nn with the settings in a pickle, and with tensors of no values, to be described."""
    module, _, word = there.name.rpartition(".")
    kind = LAYERS.get(word) if module.startswith(("torch.nn.", "zoo_core.")) else None
    children = children_of(there)
    state = _state(there)
    is_changed = "forward" in state or any(state.get(name) for name in _HOOKS)
    if kind is None or is_changed or not all(_can_run(name, value) for name, value in state.items()):
        return None
    if kind is nn.Sequential:
        made = [(name, _stand_in(each)) for name, each in children.items() if each]
        whole = OrderedDict((name, each) for name, each in made if each is not None and _is_name(name))
        return nn.Sequential(whole) if len(whole) == len(children) else None
    try:
        return None if children else _leaf(kind, there)
    except _ODD:
        return None


def _leaf(kind: type[nn.Module], there: Foreign) -> nn.Module | None:
    state, tensors = _state(there), _tensors(there)
    held = state.get("_buffers")
    buffers = {str(name): each for name, each in held.items()} if isinstance(held, Mapping) else {}
    if not all(map(_is_name, (*tensors, *buffers))):
        return None
    result = kind.__new__(kind)
    nn.Module.__init__(result)
    for name, each in signature(kind).parameters.items():  # an older torch wrote fewer settings
        if each.default is not each.empty and name not in {*tensors, *buffers, "device", "dtype", "bias"}:
            setattr(result, name, each.default)
    for name, value in state.items():
        if _is_name(name) and not name.startswith("_") and name not in {*tensors, *buffers} and _is_plain(value):
            setattr(result, name, value)
    for name, shape in tensors.items():
        value = None if shape is None else nn.Parameter(torch.empty(shape, device="meta"))
        result.register_parameter(name, value)
    for name, value in buffers.items():
        result.register_buffer(name, torch.empty(tuple(value.shape), device="meta") if is_tensor(value) else None)
    return result


def _is_name(name: str) -> bool:
    return bool(name) and "." not in name
