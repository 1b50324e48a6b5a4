"""Whether the anatomy of a model still holds: names and shapes of its tensors, compared with those it was read from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from zoo_core.contract.chain import Chain
from zoo_core.errors import AnatomyError
from zoo_core.surgery.features.forward import name_of_forward
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from zoo_core.contract.anatomy import Anatomy, Head, Stage

_WIDTHS = ("in_features", "in_channels")
_COUNTS = ("out_features", "out_channels")
_TOKEN_AXES = 3
_OF_ONE_SHAPE = {nn.Identity, nn.Dropout, nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.BatchNorm1d, nn.LayerNorm}
Kind = Literal["linear", "conv", "conv1d", "conv3d"]
_KINDS: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv"),
    (nn.Conv3d, "conv3d"),
)


@dataclass(frozen=True)
class Structure:
    """Names and shapes of the tensors of a model at one time, and what kinds of layers it has.

    Attributes:
        shapes: Name of each parameter to its shape, and of each buffer in the state dict to None: some change their
            shape as the model runs.
        kinds: Path of each module to the kind of torch's layers that it is, and its stride where it has one.
        forward: Which forward the model itself has.
    """

    shapes: Mapping[str, tuple[int, ...] | None]
    kinds: Mapping[str, str]
    forward: str = ""

    def __deepcopy__(self, memo: object) -> Structure:
        """The very same: it never changes, and copying a model copies what it carries."""
        return self

    def changed_since(self, before: Structure) -> set[str]:
        """Names of the tensors that are new, gone, of another shape or in another kind of layer.

        A layer without tensors that is new, gone or of another kind is there with its own path.
        """
        names = {*self.shapes, *before.shapes}
        paths = {*self.kinds, *before.kinds}
        others = {path for path in paths if self.kinds.get(path) != before.kinds.get(path)}
        owners = {name.rpartition(".")[0] for name in names} if others else set()
        return {
            name
            for name in names
            if self.shapes.get(name) != before.shapes.get(name) or (others and name.rpartition(".")[0] in others)
        } | (others - owners)


def structure_of(model: nn.Module) -> Structure:
    """Names and shapes of all tensors of ``model``, as they are now.

    Example:
        >>> structure_of(nn.Linear(3, 2)).shapes
        {'weight': (2, 3), 'bias': (2,)}
    """
    shapes: dict[str, tuple[int, ...] | None] = {}
    kinds: dict[str, str] = {}
    _note(model, "", shapes, kinds)
    return Structure(shapes, kinds, name_of_forward(model))


def _note(module: nn.Module, prefix: str, shapes: dict[str, tuple[int, ...] | None], kinds: dict[str, str]) -> None:
    """Write down names and shapes for :class:`Structure`, in one walk: every verb begins and ends with it."""
    parameters, buffers, unsaved = module._parameters, module._buffers, module._non_persistent_buffers_set  # noqa: SLF001 - as in tensors_of
    kind, stride = _kind(type(module)), module.__dict__.get("stride")  # type: ignore[arg-type]  # mypy takes the hash of a class for its objects'
    kinds[prefix[:-1]] = kind if stride is None else f"{kind} {stride}"
    for name, parameter in parameters.items():
        if parameter is not None:
            shapes[prefix + name] = () if nn.parameter.is_lazy(parameter) else tuple(parameter.shape)
    for name, buffer in buffers.items():
        if buffer is not None and name not in unsaved:
            shapes[prefix + name] = None
    for name, child in module._modules.items():  # noqa: SLF001 - as in tensors_of
        if child is not None:
            _note(child, f"{prefix}{name}.", shapes, kinds)


@cache
def _kind(kind: type) -> str:
    """The kind of layer that a structure notes for a class: the one of torch it is or derives from."""
    if issubclass(kind, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the base of all of them
        return "BatchNorm"
    return next(each.__name__ for each in kind.__mro__ if each.__module__.startswith("torch.nn.modules."))


def tensors_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor whose shape makes up the structure of a model; shared ones by every name."""
    # named_parameters would drop what is shared, and takes five times as long
    for name, parameter in module._parameters.items():  # noqa: SLF001 - torch has no public way
        if parameter is not None:
            yield prefix + name, parameter
    for name, buffer in module._buffers.items():  # noqa: SLF001 - torch has no public way
        if buffer is not None and name not in module._non_persistent_buffers_set:  # noqa: SLF001
            yield prefix + name, buffer
    for name, child in module._modules.items():  # noqa: SLF001 - torch has no public way
        if child is not None:
            yield from tensors_of(child, f"{prefix}{name}.")


def reread(model: nn.Module, old: Anatomy, changed: set[str], read: Callable[[nn.Module], Anatomy] | None) -> Anatomy:
    """The anatomy of a model whose structure was changed by hand, read again.

    Args:
        model: As it is now.
        old: Its anatomy before.
        changed: Names of the tensors that are new, gone or of another shape.
        read: Reads the anatomy from the modules, as the family does; None where zoo's own surgery has changed the
            forward, so that the family would not recognize it.

    Raises:
        AnatomyError: Parts that the anatomy names are gone, and what took their place is unclear.
    """
    try:
        fresh = read(model) if read else None
    except AnatomyError:
        fresh = None
    if fresh is None:
        return _amended(model, with_all_layers(model, old), changed)
    return _merged(old, _widened(model, with_all_layers(model, fresh), changed), changed)


def with_all_layers(model: nn.Module, anatomy: Anatomy) -> Anatomy:
    """The anatomy, or the one that holds where a classifier is now a Sequential of other layers than it names.

    A forward calls it as a whole, so that all its layers run, and the last one with a width is the head.

    Args:
        model: As it is now.
        anatomy: As its family reads it, or as it was.
    """
    main = anatomy.main
    around = sequence_around(model, main.path) if main else ""
    pool, after = anatomy.pool or Chain(), anatomy.classify or Chain(main.path if main else "head")
    if not around or anatomy.features is None or not type(pool) is type(after) is Chain:
        return anatomy
    layers = [f"{around}.{name}" for name, _ in model.get_submodule(around).named_children()]
    steps = [*pool.steps, *after.steps]
    places = [index for index, step in enumerate(steps) if isinstance(step, str) and under(step, around)]
    sites = [path for path in layers if _layers(model.get_submodule(path))]
    as_named = [steps[index] for index in places] == layers
    if main is None or not sites or not places or (as_named and sites[-1] == main.path):
        return anatomy
    steps[places[0] : places[-1] + 1] = layers
    end = steps.index(sites[-1])
    head = _measured(model, replace(main, path=sites[-1]))
    return replace(
        anatomy,
        heads=tuple(head if each is main else each for each in anatomy.heads),
        pool=Chain(*steps[:end]),
        classify=Chain(*steps[end:]) if steps[end + 1 :] else None,
    )


def sequence_around(model: nn.Module, path: str) -> str:
    """Path of the Sequential that a head site lies in, in the structure of a model; empty where it is in none."""
    around = path.rpartition(".")[0]
    module = model.get_submodule(around) if around and _replaced_around(model, around) == around else None
    return around if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward else ""


def with_live_maps(model: nn.Module, anatomy: Anatomy, size: tuple[int, ...]) -> Anatomy:
    """The anatomy with the channels and strides that stages have after a change of structure, found by one run.

    Structured pruning changes channels, and a first convolution for small images strides.

    Args:
        model: As it is now.
        anatomy: Where its parts are. Libraries write the channels of a stage down where they build it.
        size: Channels, rows and columns of what its forward takes.
    """
    result: dict[str, Stage] = {}

    def recording(stage: Stage) -> Callable[[nn.Module, Any, Any], None]:
        def record(_: nn.Module, __: object, output: object) -> None:
            result[stage.name] = _with_live_map(stage, stage.map_in(model, output), anatomy.layout, size)

        return record

    handles = [model.get_submodule(each.output).register_forward_hook(recording(each)) for each in anatomy.stages]
    try:
        with inferring(model):
            model(noise(model, size))
    except Exception:  # noqa: BLE001 - it takes something else than an image: its own numbers have to do
        return anatomy
    finally:
        for handle in handles:
            handle.remove()
    stages = tuple(result.get(each.name, each) for each in anatomy.stages)
    return anatomy if stages == anatomy.stages else replace(anatomy, stages=stages)


def _with_live_map(stage: Stage, found: Tensor, layout: str, size: tuple[int, ...]) -> Stage:
    """The stage with the channels of its map after a change of structure, and the stride where it is of an image."""
    channels = int(found.shape[1 if layout == "NCHW" else -1])
    stride = stage.stride
    if found.dim() > _TOKEN_AXES and len(size) > 1:
        columns = found.shape[-2 if layout == "NHWC" else -1]
        if columns not in {size[-1] // stride, -(-size[-1] // stride)}:  # small maps fit several strides
            stride = 2 ** round(math.log2(size[-1] / columns))
    return replace(stage, channels=channels, stride=stride)


def head_is_near(name: str, anatomy: Anatomy) -> bool:
    """Whether a change of structure, at one tensor, is in the main head or in the outermost module around it."""
    return anatomy.main is not None and under(name, anatomy.main.path.partition(".")[0])


def noise(model: nn.Module, size: tuple[int, ...]) -> Tensor:
    """One image of noise, the same each time, on the device and in the dtype of a model."""
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0, device="cpu"))
    noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0), device="cpu")
    return noise.to(device=like.device, dtype=like.dtype)


def _merged(old: Anatomy, fresh: Anatomy, changed: set[str]) -> Anatomy:
    """The anatomy that the family reads after a change by hand, with the heads and strides that only zoo knows."""
    before = {head.path: head for head in old.heads}
    heads = tuple(
        before[head.path] if head.path in before and not _inside(changed, head.path) else head for head in fresh.heads
    )
    strides = {stage.name: stage.stride for stage in old.stages}
    return replace(
        fresh,
        heads=heads,
        stages=tuple(replace(stage, stride=strides.get(stage.name, stage.stride)) for stage in fresh.stages),
        scaling=fresh.scaling if old.scaling else None,
        headless=fresh.headless if not heads else None,
    )


def _widened(model: nn.Module, fresh: Anatomy, changed: set[str]) -> Anatomy:
    """The anatomy with the whole classifier as main head site, where all of it was replaced, not its last layer."""
    main = fresh.main
    parent = main.path.rpartition(".")[0] if main else ""
    before_head = {name for name in changed if parent and under(name, parent) and main and not under(name, main.path)}
    is_new = any(_owner_has(model, name) for name in before_head) and all(under(name, parent) for name in changed)
    if not (is_new and main and isinstance(fresh.pool, Chain) and fresh.classify is None):
        return fresh
    return _with_site(model, fresh, main, parent) if _begins_with_a_layer(model.get_submodule(parent)) else fresh


def _begins_with_a_layer(module: nn.Module) -> bool:
    """Whether a classifier put in by hand changes no shape before its first layer: the structure tells its width."""
    leaves = [each for each in module.modules() if not each._modules]  # noqa: SLF001 - no public way to see that
    first = next((each for each in leaves if type(each) not in _OF_ONE_SHAPE), None)
    return first is not None and bool(_number(first, _WIDTHS))


def _owner_has(model: nn.Module, name: str) -> bool:
    """Whether the structure of a model still has something of the name of that tensor."""
    owner, _, leaf = name.rpartition(".")
    try:
        return hasattr(model.get_submodule(owner), leaf)
    except AttributeError:
        return False


def _amended(model: nn.Module, old: Anatomy, changed: set[str]) -> Anatomy:
    """The old anatomy with the widths of what is in its places after a change by hand; a site may be a module out.

    Raises:
        AnatomyError: Another part is gone.
    """
    result = old
    for head in old.heads:
        if not _inside(changed, head.path):
            continue
        around = _scoring(model, head.path, changed)
        if around == head.path:
            heads = tuple(_measured(model, each) if each is head else each for each in result.heads)
            result = replace(result, heads=heads)
        elif around and isinstance(result.pool, Chain) and result.classify is None:
            result = _with_site(model, result, head, around)
        else:
            raise gone(model, head.path)
    paths = [*result.stem, *(path for stage in result.stages for path in stage.modules)]
    for path in paths:
        if _replaced_around(model, path) != path:
            raise gone(model, path)
    return result


def _with_site(model: nn.Module, anatomy: Anatomy, head: Head, path: str) -> Anatomy:
    """The anatomy for a changed model whose head site is a module around the old one, with all that came before it."""
    site = _measured(model, replace(head, path=path))
    heads = tuple(site if each.path == head.path else each for each in anatomy.heads)
    pool = anatomy.pool
    if isinstance(pool, Chain):
        pool = Chain(*(step for step in pool.steps if not (isinstance(step, str) and under(step, path))))
    return replace(anatomy, heads=heads, pool=pool)


def _scoring(model: nn.Module, path: str, changed: set[str]) -> str:
    """The path of a head site after a change by hand, or of the innermost module around it that can score.

    A site that holds nothing to score with, with no new layer around it, is one that gives embeddings.
    """
    site = _replaced_around(model, path)
    is_bare = bool(site) and has_nothing_to_score_with(model.get_submodule(site))
    around = site
    while around and not (
        _layers(model.get_submodule(around))
        and (not is_bare or any(under(name, around) and _owner_has(model, name) for name in changed))
    ):
        around = around.rpartition(".")[0]
    return around or (site if is_bare else "")


def _replaced_around(model: nn.Module, path: str) -> str:
    """The path, or the innermost module around it that is still there after a change by hand; empty for the model."""
    while path:
        try:
            result: Any = model.get_submodule(path)
        except AttributeError:
            result = None
        if isinstance(result, nn.Module):
            return path
        path = path.rpartition(".")[0]
    return ""


def _measured(model: nn.Module, head: Head) -> Head:
    """A head site with the widths of the module that a change by hand put there."""
    layers = _layers(model.get_submodule(head.path))
    if not layers:  # nothing but the place is left, as timm's reset_classifier(0) leaves it
        return replace(head, num_classes=0)
    return replace(
        head,
        kind=next((kind for each, kind in _KINDS if isinstance(layers[0], each)), head.kind),
        in_features=_number(layers[0], _WIDTHS),
        num_classes=_number(layers[-1], _COUNTS) // head.per_class,
    )


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers in a module that say a width, to compare with those of an anatomy."""
    return [layer for layer in module.modules() if _number(layer, _WIDTHS)]


def _number(layer: nn.Module, names: Iterable[str]) -> int:
    """The first of these attributes of a layer that is an integer, such as its width; 0 where none is."""
    return next((value for name in names if isinstance(value := getattr(layer, name, None), int)), 0)


def under(name: str, path: str) -> bool:
    """Whether the tensor ``name`` lies in the module ``path`` of a model's structure, or is it."""
    return name == path or name.startswith(f"{path}.")


def _inside(names: Iterable[str], path: str) -> bool:
    """Whether one of the changed tensors is in the module at ``path``, or in a module that was there or around it."""
    owners = (name.rpartition(".")[0] for name in names)
    return any(under(name, path) for name in names) or any(owner and under(path, owner) for owner in owners)


def gone(model: nn.Module, path: str) -> AnatomyError:
    """The error where the module at a path is no longer what the anatomy says."""
    return AnatomyError(
        f"the module {path!r} of this {type(model).__name__} is gone, and what took its place is unclear",
        expected="the modules that the model had when zoo last looked, with other widths or layers inside",
        cause="the model was changed by hand, or by another library",
        done="nothing was changed",
        hint="zoo.adopt(model, example=x), with x what forward takes, finds its parts anew; zoo.swap_head and "
        "zoo.adapt_stem, on the model as it was, change it in a way that zoo can follow",
    )
