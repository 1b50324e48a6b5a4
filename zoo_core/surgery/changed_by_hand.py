"""The anatomy of a model that was changed by hand, its heads too: read again, and checked by running its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.chain import Chain
from zoo_core.errors import AnatomyError
from zoo_core.surgery.features.forward import run_forward, with_hooks, with_pre_hooks
from zoo_core.surgery.layers import has_nothing_to_score_with, input_width, layers_with_width, output_width
from zoo_core.surgery.noise import noise, noise_like
from zoo_core.surgery.structure import under
from zoo_core.utils.eval_mode import inferring

OWN_FORWARD = "it was changed by hand, and its forward does not end with its head"
"""Of ``Anatomy.indivisible``: what :func:`with_own_forward` says where nothing can be split off."""
RANDOM = "it gives something else each time it runs, so no split can be proven"
"""Of ``Anatomy.indivisible`` too: what the proof of a traced split says; the head may be the last layer anyway."""

_Kind = Literal["linear", "conv", "conv1d", "conv3d"]

_LAYERS: dict[type[nn.Module], _Kind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv3d",
}
_PLACES = {"linear": 0, "conv1d": 1, "conv": 2, "conv3d": 3}
"""Axes of a map beside the batch and the channels."""
_OF_ONE_SHAPE = {nn.Identity, nn.Dropout, nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.BatchNorm1d, nn.LayerNorm}


def reread(model: nn.Module, old: Anatomy, changed: set[str], read: Callable[[nn.Module], Anatomy] | None) -> Anatomy:
    """The anatomy of a model whose structure was changed by hand, read again so that it is true of it now.

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
        result = _amended(model, with_all_layers(model, old), changed)
    else:
        result = _merged(old, _widened(model, with_all_layers(model, fresh), changed), changed)
    _refuse_layers_after(model, result, changed)
    return result


def _refuse_layers_after(model: nn.Module, anatomy: Anatomy, changed: set[str]) -> None:
    """Refuse an anatomy whose head is not last: layers with parameters were put after it by hand, in its Sequential.

    Raises:
        AnatomyError: There are such, and the anatomy does not say that they come after it.
    """
    path = anatomy.main.path if anatomy.main and anatomy.classify is None else ""
    while path:
        around, _, place = path.rpartition(".")
        module = model.get_submodule(around)
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            names = [name for name, _ in module.named_children()]
            after = [f"{around}.{name}".removeprefix(".") for name in names[names.index(place) + 1 :]]
            after = [each for each in after if next(model.get_submodule(each).parameters(), None) is not None]
            if new := next((each for each in after if any(under(name, each) for name in changed)), None):
                raise AnatomyError(
                    f"the layer {new!r} was put after the head {path!r} of this {type(model).__name__}",
                    done="nothing was changed",
                    hint="zoo.adopt(model, example=x), with x what forward takes, finds its parts anew",
                )
        path = around


def with_all_layers(model: nn.Module, anatomy: Anatomy) -> Anatomy:
    """The anatomy, or the one that holds now that a classifier was put in by hand, a Sequential of other layers.

    A forward calls it as a whole, so that all its layers run, and the last one with a width is the head.
    """
    main = anatomy.main
    around = sequence_around(model, main.path) if main else ""
    pool, after = anatomy.pool or Chain(), anatomy.classify or Chain(main.path if main else "head")
    if not around or anatomy.features is None or not type(pool) is type(after) is Chain:
        return anatomy
    layers = [f"{around}.{name}" for name, _ in model.get_submodule(around).named_children()]
    steps = [*pool.steps, *after.steps]
    places = [index for index, step in enumerate(steps) if isinstance(step, str) and under(step, around)]
    sites = [path for path in layers if layers_with_width(model.get_submodule(path))]
    as_named = [steps[index] for index in places] == layers
    if main is None or not sites or not places or (as_named and sites[-1] == main.path):
        return anatomy
    steps[places[0] : places[-1] + 1] = layers
    end = steps.index(sites[-1])
    head = measured_head(model, replace(main, path=sites[-1]))
    return replace(
        anatomy,
        heads=tuple(head if each is main else each for each in anatomy.heads),
        pool=Chain(*steps[:end]),
        classify=Chain(*steps[end:]) if steps[end + 1 :] else None,
    )


def sequence_around(model: nn.Module, path: str) -> str:
    """Path of the Sequential put by hand in which the anatomy's head site is now; empty where it is in none."""
    around = path.rpartition(".")[0]
    module = model.get_submodule(around) if around and _replaced_around(model, around) == around else None
    return around if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward else ""


def head_is_near(name: str, anatomy: Anatomy) -> bool:
    """Whether a tensor of a model changed by hand is in its main head, or in the outermost module around it."""
    return anatomy.main is not None and under(name, anatomy.main.path.partition(".")[0])


def _merged(old: Anatomy, fresh: Anatomy, changed: set[str]) -> Anatomy:
    """The anatomy that the family reads after a change by hand, with the heads and strides that only zoo knows."""
    before = {head.path: head for head in old.heads}
    heads = tuple(
        before[head.path] if head.path in before and not _reaches(changed, head.path) else head for head in fresh.heads
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
    """The anatomy with the whole classifier as main head, where all of it was replaced by hand, not its last layer."""
    main = fresh.main
    parent = main.path.rpartition(".")[0] if main else ""
    before_head = {name for name in changed if parent and under(name, parent) and main and not under(name, main.path)}
    is_new = any(_owner_has(model, name) for name in before_head) and all(under(name, parent) for name in changed)
    if not (is_new and main and isinstance(fresh.pool, Chain) and fresh.classify is None):
        return fresh
    return _with_site(model, fresh, main, parent) if _begins_with_a_layer(model.get_submodule(parent)) else fresh


def _begins_with_a_layer(module: nn.Module) -> bool:
    """Whether a classifier put in by hand changes no shape before its first layer, which gives the width."""
    leaves = [each for each in module.modules() if not each._modules]  # noqa: SLF001 - no public way to see that
    first = next((each for each in leaves if type(each) not in _OF_ONE_SHAPE), None)
    return first is not None and bool(input_width(first))


def _owner_has(model: nn.Module, name: str) -> bool:
    """Whether a model changed by hand still has something of the name of this tensor."""
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
        if not _reaches(changed, head.path):
            continue
        around = _scoring(model, head.path, changed)
        if around == head.path:
            heads = tuple(measured_head(model, each) if each is head else each for each in result.heads)
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
    """The anatomy of a model changed by hand whose head is a module around the old site, with all that came before."""
    site = measured_head(model, replace(head, path=path))
    heads = tuple(site if each.path == head.path else each for each in anatomy.heads)
    pool = anatomy.pool
    if isinstance(pool, Chain):
        pool = Chain(*(step for step in pool.steps if not (isinstance(step, str) and under(step, path))))
    return replace(anatomy, heads=heads, pool=pool)


def _scoring(model: nn.Module, path: str, changed: set[str]) -> str:
    """Where the anatomy's head is after a change by hand: at its site, or in the innermost module that can score.

    A site that holds nothing to score with, with no new layer around it, is one that gives embeddings.
    """
    site = _replaced_around(model, path)
    if site == path and scores_its_own_way(model.get_submodule(site)):
        return site
    is_bare = bool(site) and has_nothing_to_score_with(model.get_submodule(site))
    around = site
    while around and not (
        layers_with_width(model.get_submodule(around))
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


def _reaches(names: Iterable[str], path: str) -> bool:
    """Whether a change of tensors by hand reaches the part of an anatomy at ``path``: it is in it, or around it."""
    owners = (name.rpartition(".")[0] for name in names)
    return any(under(name, path) for name in names) or any(owner and under(path, owner) for owner in owners)


def gone(model: nn.Module, path: str) -> AnatomyError:
    """The error where a model was changed by hand and the module at a path is no longer what the anatomy says."""
    return AnatomyError(
        f"the module {path!r} of this {type(model).__name__} is gone, and what took its place is unclear",
        expected="the modules that the model had when zoo last looked, with other widths or layers inside",
        cause="the model was changed by hand, or by another library",
        done="nothing was changed",
        hint="zoo.adopt(model, example=x), with x what forward takes, finds its parts anew; zoo.swap_head and "
        "zoo.adapt_stem, on the model as it was, change it in a way that zoo can follow",
    )


def with_checked_split(model: nn.Module, anatomy: Anatomy, size: tuple[int, ...]) -> Anatomy:
    """Check that an anatomy still holds after a head was changed by hand: run the model whole and in its parts.

    A model that does not run on noise of that size, and one of several head sites, is believed. The place of a head
    that was taken out takes what it is given, such as a map where the pool was taken out too.

    Returns:
        The anatomy, with the width of such a place.

    Raises:
        AnatomyError: The parts do not give what the whole gives, or the head site is given something else.
    """
    main = anatomy.main
    one_site = main is not None and all(head.role in {"main", "aux"} for head in anatomy.heads)
    if main is None or anatomy.features is None or not one_site or _cannot_run(model):
        return anatomy
    with inferring(model):
        try:
            x = noise(model, (1, *size))
            scores = anatomy.scores_in(model(x))
        except Exception:  # noqa: BLE001 - it takes something else than an image
            return anatomy
        try:
            pooled, result = _in_parts(model, anatomy, main, x)
        except Exception as error:
            raise gone(model, main.path) from error
    site = _taking(main, pooled) if has_nothing_to_score_with(model.get_submodule(main.path)) else main
    if not (_alike(result, scores) and _takes(site, pooled)):
        raise gone(model, main.path)
    return replace(anatomy, heads=tuple(site if each is main else each for each in anatomy.heads))


def with_own_forward(
    model: nn.Module, anatomy: Anatomy, size: tuple[int, ...], example: Any = None, *, is_believed: bool = False
) -> Anatomy:
    """The anatomy that still holds for a model whose forward, or what it calls, was replaced by hand, as runs show it.

    Args:
        model: As it is now.
        anatomy: Where its parts were.
        size: Channels, rows and columns of what its forward takes.
        example: What it takes, where that is known.
        is_believed: Whether the anatomy holds where the model does not run.

    Returns:
        The anatomy as it was, where features, pool and head still give what forward gives. Otherwise one in which
        forward itself is what comes before the head, or which says that nothing can be split off.
    """
    main, outputs = anatomy.main, []
    says_nothing = anatomy.features is None and (main is None or anatomy.indivisible)
    if says_nothing or _cannot_run(model):
        return anatomy
    at_head: list[tuple[Any, Any]] = []
    with inferring(model):
        x = noise_like(model, size, example)
        head = model.get_submodule(main.path) if main else nn.Identity()
        # whatever a forward raises that takes something else than an image
        with head.register_forward_hook(lambda _, args, output: at_head.append((args[0], output))), suppress(Exception):
            outputs.append(anatomy.scores_in(run_forward(model, x)))
        ran = bool(outputs)
        with suppress(Exception):  # as above, and what modules raise that are given something else than before
            if main is not None and anatomy.features is not None:
                outputs.append(_in_parts(model, anatomy, main, x)[1])
    if (len(outputs) > 1 and _alike(*outputs)) or (is_believed and not ran):
        return anatomy
    whole = replace(anatomy, features=None, pool=None, classify=None)
    if main and outputs and len(at_head) == 1 and _alike(at_head[0][1], outputs[0]) and _takes(main, at_head[0][0]):
        return whole
    return replace(whole, indivisible=OWN_FORWARD)


def _in_parts(model: nn.Module, anatomy: Anatomy, main: Head, x: Any) -> tuple[Any, Any]:
    """What the head of a model changed by hand is given, and what its parts give, to see if the anatomy still holds."""
    features: Any = anatomy.features
    pooled = (anatomy.pool or Chain())(model, features(model, with_pre_hooks(model, x)))
    result = (anatomy.classify or Chain(main.path))(model, pooled)
    return pooled, with_hooks(model, pooled, result) if anatomy.scores is None else result


def _cannot_run(model: nn.Module) -> bool:
    """Whether no run can show what a change by hand has done: there are no values here, or only shards of them."""
    return any(each.is_meta or hasattr(each, "device_mesh") for each in model.parameters())


def _taking(site: Head, pooled: Any) -> Head:
    """An empty head site of a model changed by hand, with the kind and the width of what it is given now."""
    if not isinstance(pooled, torch.Tensor) or _takes(site, pooled):
        return site
    kinds: dict[int, _Kind] = {3: "conv1d", 4: "conv", 5: "conv3d"}
    kind: _Kind = kinds.get(pooled.dim(), "linear")
    return replace(site, kind=kind, in_features=pooled.shape[-1 if kind == "linear" else 1])


def _takes(site: Head, pooled: Any) -> bool:
    """Whether the head site of a model changed by hand still takes what it is given: its features, on their axis."""
    if not isinstance(pooled, torch.Tensor):
        return True
    return pooled.shape[-1 if site.kind == "linear" else 1] == site.in_features


def _alike(one: Any, other: Any) -> bool:
    """Whether the parts of a model changed by hand give what the whole gives, as near as floats are."""
    first, second = tree_leaves(one), tree_leaves(other)
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b.to(a.dtype), equal_nan=True, rtol=1e-3, atol=1e-5)
        for a, b in zip(first, second, strict=True)
    )


def measured_head(model: nn.Module, head: Head) -> Head:
    """A head site with the widths of the module that a user put there by hand.

    What a class of the user's own takes, and how many classes it scores, its layers do not tell for sure: they may be
    registered in any order, and be given another shape than the class is. So it is run, on zeros.

    Raises:
        AnatomyError: No layer has the width, and the module does not take what the site was given before.
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
            in_features=input_width(layers[0]),
            num_classes=output_width(layers[-1]) // head.per_class,
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
        cause=f"a {type(module).__name__} has no layer that shows what it takes, and does not run on that",
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
    """Whether a head put in by hand has parameters and no layer that an anatomy reads its width from, as of cosines."""
    has_parameters = next(module.parameters(), None) is not None
    return not layers_with_width(module) and has_parameters and not has_nothing_to_score_with(module)
