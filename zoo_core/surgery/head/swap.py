"""Replacing the head of any model: its classifier, the auxiliary ones with it, or its keypoint layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.chain import Chain, flatten
from zoo_core.errors import NotSupported, UsageError, ZooWarning
from zoo_core.surgery.editing import editing
from zoo_core.surgery.features.cut import refuse_auxiliary
from zoo_core.surgery.features.forward import is_recomposed, library_scores, recompose, restore_forward
from zoo_core.surgery.features.twin import Absent, replaced
from zoo_core.surgery.head.fit import HeadLike, fitted, made_for
from zoo_core.surgery.head.mlp import MLPHead, check_output, scores_only, with_output
from zoo_core.surgery.head.multi_head import (
    check_names,
    check_sites,
    check_unbranched,
    classify_each,
    one_head,
)
from zoo_core.surgery.head.scores import classes_by_head, count_scores
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import Metadata, anatomy_of, metadata_of, no_head, unwrap
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.attributes import set_attribute
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.hooks import removing
from zoo_core.utils.memory_format import follows, lay_last
from zoo_core.utils.random_state import seeded


@strict_arguments
def swap_keypoints(model: Model, num_keypoints: int, *, seed: int | None = None) -> Model:
    """Swap the layer that draws a map for each keypoint for a new one; everything else keeps its weights.

    Args:
        model: A keypoint detector from ``zoo.get`` or ``zoo.adopt``; changed in place.
        num_keypoints: How many keypoints an object has.
        seed: Makes the new parameters reproducible without touching the global random state.

    Returns:
        The same model.

    Raises:
        UsageError: ``num_keypoints`` is not a positive integer.
        NotSupported: The model finds no keypoints.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("keypointrcnn_resnet50_fpn", weights=None, options={"weights_backbone": None})
        >>> zoo.swap_keypoints(model, 5).roi_heads.keypoint_predictor.kps_score_lowres.out_channels
        5
    """
    check_count("num_keypoints", num_keypoints)
    path = keypoint_site(model)
    with editing(model, "swap_keypoints", record={"num_keypoints": num_keypoints}) as edit:
        bare = edit.model
        old = bare.get_submodule(path)
        if not isinstance(old, nn.ConvTranspose2d):
            raise NotSupported(f"{path!r} is a {type(old).__name__}, and zoo replaces transposed convolutions only")
        with on_the_cpu(), seeded(seed, bare):
            new = nn.ConvTranspose2d(old.in_channels, num_keypoints, kernel_size=4, stride=2, padding=1)
            # as torchvision's KeypointRCNNPredictor begins
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(new.bias)  # type: ignore[arg-type]  # there is a bias unless it is made without
        new.to(old.weight)
        if follows(old, bare):
            lay_last(new)
        bare.set_submodule(path, new.train(old.training))
    return model


def keypoint_site(model: nn.Module) -> str:
    """Path of the layer that :func:`swap_keypoints` swaps, which draws a map for each keypoint.

    Raises:
        NotSupported: The model finds no keypoints.
    """
    path = anatomy_of(model).keypoints
    if path is None:
        raise NotSupported(
            f"this {type(unwrap(model)).__name__} finds no keypoints",
            hint="zoo list --task keypoints names the models that do",
        )
    return path


__all__ = ["seeded", "swap_head"]

Model = TypeVar("Model", bound=nn.Module)


@strict_arguments
def swap_head(
    model: Model,
    head: HeadLike,
    *,
    at: Literal["features"] | None = None,
    keep_hidden: bool = True,
    input_size: Sequence[int] | None = None,
    seed: int | None = None,
) -> Model:
    """Replace the classifier of ``model``; auxiliary and distilled heads follow with plain layers of as many classes.

    After those comes what ``activation`` and ``squeeze`` of ``zoo.mlp_head`` put after the main head, for one loss.

    The new head is born on the device, in the dtype and in the memory format of the one it replaces, trainable, and in
    its train or eval mode. Every other tensor, and every key of the state dict outside the head, stays as it is, and so
    does the class of the model.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        head: The number of classes, for a layer like the one that is there; a description from ``zoo.mlp_head``; a
            module that takes what the site gives, ``[N, in_features]`` or ``[N, in_features, H, W]``, and returns
            scores, ``[N, num_classes, ...]``; a function that makes one from ``in_features``; None for no head, so that
            the model returns embeddings, what the head was given; or a dict of these, and the model then returns a dict
            of scores.
        at: ``"features"`` gives the head the last feature map, ``[N, C, H, W]`` or tokens ``[N, L, C]``, instead of
            what is pooled from it. Pooling and hidden layers are then left out. A number and ``zoo.mlp_head`` score
            every place of the map.
        keep_hidden: False drops the hidden layers between pooling and head, such as AlexNet's and VGG's two.
        input_size: With ``at="features"``, channels, height and width of the images, if they are not those of the
            card: a head that flattens its map fits one size only.
        seed: Makes the new parameters reproducible without touching the global random state.

    Returns:
        The same model.

    Raises:
        UsageError: ``head`` is a number below 1, or of another type; ``at`` is another word.
        HeadMismatch: The module does not take what the site gives; the message says both.
        NotSupported: The model has no head, has branches, or cannot run with a head of that kind.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("vgg11", weights=None)
        >>> zoo.swap_head(model, 9).classifier[6]
        Linear(in_features=4096, out_features=9, bias=True)
        >>> model = zoo.get("tiny/glyphnet", weights=None, seed=0).eval()
        >>> scores = zoo.swap_head(model, {"colour": 3, "shape": 5})(torch.zeros(2, 1, 32, 32))
        >>> {name: tuple(tensor.shape) for name, tensor in scores.items()}
        {'colour': (2, 3), 'shape': (2, 5)}
    """
    if at not in {None, "features"}:
        raise UsageError(f"at cannot be {at!r}", expected="None, where the head is now, or 'features'")
    record = {"head": head, "at": at, "keep_hidden": keep_hidden, "input_size": input_size}
    with editing(model, "swap_head", record=record) as edit:
        bare, sites = edit.model, _sites_to_swap(model)
        _check_possible(bare, edit.anatomy if at is None else replace(edit.anatomy, classify=None), sites, head)
        anatomy, sites, shape, gone = _place(bare, edit.anatomy, sites, at, input_size, keep_hidden=keep_hidden)
        with seeded(seed, bare):
            record["head"] = head = made_for(sites[0], head)
        after = _after_swap(anatomy, sites, head)
        new, counts = _new_heads(bare, sites, head if after is None else scores_only(head), shape, seed)
        names = _names_kept(metadata_of(bare), bare, new[0], counts)
        num_classes = sum(counts.values()) if isinstance(counts, dict) else counts
        heads = tuple(replace(site, num_classes=num_classes) for site in sites)
        stays_on_map = anatomy.pool is None and is_recomposed(bare)
        own = at == "features" or stays_on_map or after is not one_head(anatomy)
        if own:
            _check_one_input(bare)
        edit.anatomy = _swap_in(bare, replace(anatomy, heads=heads, classify=after), new, gone, own=own)
        edit.update(names=names, multi_label=metadata_of(bare).multi_label and bool(names))
    return model


def _check_possible(model: nn.Module, anatomy: Anatomy, sites: tuple[Head, ...], head: HeadLike) -> None:
    """Raise where a swap cannot give the model no head, several, or one beside its branches, whatever the sizes are."""
    if head is None:
        _check_embeds(model, sites)
    check_unbranched(metadata_of(model), sites[0].path)
    if isinstance(head, Mapping):
        check_names(head)
        check_sites(sites, anatomy)


class _Place(NamedTuple):
    """Where a swap puts the new heads.

    Attributes:
        anatomy: Of the model without what goes.
        sites: The main one first.
        shape: Of one feature map, where the head is given that.
        gone: An empty place for each module that goes.
    """

    anatomy: Anatomy
    sites: tuple[Head, ...]
    shape: Sequence[int] | None
    gone: dict[str, nn.Module]


def _place(
    model: nn.Module,
    anatomy: Anatomy,
    sites: tuple[Head, ...],
    at: str | None,
    input_size: Sequence[int] | None,
    *,
    keep_hidden: bool,
) -> _Place:
    """Where a swap puts the new heads, by what is to be between them and the features."""
    if at == "features":
        refuse_auxiliary(model, 'swap_head(..., at="features")')
        return _on_the_map(model, input_size)
    if keep_hidden:
        return _Place(anatomy, sites, None, {})
    main, gone = _without_hidden(model, anatomy, sites[0])
    return _Place(anatomy, (main, *sites[1:]), None, gone)


def _new_heads(
    model: nn.Module, sites: tuple[Head, ...], head: HeadLike, shape: Sequence[int] | None, seed: int | None
) -> tuple[list[nn.Module], int | dict[str, int]]:
    """The new module that a swap puts at each head site, and how many classes the main one scores."""
    with seeded(seed, model):
        new = [fitted(model, sites[0], head)]
        counts = count_scores(new[0], sites[0], shape)
        return [*new, *(_follow(model, site, counts, head) for site in sites[1:])], counts


def _names_kept(known: Metadata, model: nn.Module, new: nn.Module, counts: int | dict[str, int]) -> tuple[str, ...]:
    """The class names that a swap keeps: where the old head is part of the new one, or the user named as many.

    Names of one head are not spread over several, nor those of several over others; each head keeps its own where the
    heads come in another order.
    """
    main = known.anatomy.main
    old = model.get_submodule(main.path) if main else None
    num_classes = sum(counts.values()) if isinstance(counts, dict) else counts
    if main and any(module is old for module in new.modules()) and num_classes == main.num_classes:
        return known.class_names
    before = classes_by_head(model, main)
    if (counts if isinstance(counts, dict) else {}) != before or len(known.names) != num_classes:
        return ()
    rest = iter(known.names)
    rows = {name: tuple(islice(rest, count)) for name, count in before.items()}
    return tuple(each for name in counts for each in rows[name]) if isinstance(counts, dict) else known.names


def _sites_to_swap(model: nn.Module) -> tuple[Head, ...]:
    """Head sites that ``swap_head`` replaces, the main one first; NotSupported for a model without any."""
    anatomy = anatomy_of(model)
    if not anatomy.heads:
        raise no_head(model, "to replace")
    return tuple(sorted(anatomy.heads, key=lambda site: site.role != "main"))


def _on_the_map(model: nn.Module, input_size: Sequence[int] | None) -> _Place:
    """Where ``swap_head(..., at="features")`` puts the head: on the feature map, found by running once."""
    anatomy = anatomy_of(model)
    if anatomy.features is None or anatomy.main is None:
        raise NotSupported(
            f"this {type(model).__name__} cannot have its head at the features",
            cause="its family does not say where its features end",
            hint="models whose zoo.anatomy(model).features is not None can, such as all of torchvision's classifiers",
        )
    with torch.no_grad(), evaluating(model):
        result = anatomy.features(model, example_input(model, input_size))
        gone = _emptied_places(model, anatomy, result) if isinstance(result, torch.Tensor) else {}
    if not isinstance(result, torch.Tensor):
        raise NotSupported(
            f"this {type(model).__name__} cannot have its head at the features",
            cause=f"its features are a {type(result).__name__} and not one tensor",
            hint="models with one feature map can, such as all of torchvision's classifiers",
        )
    shape = tuple(result.shape[1:])
    kinds: dict[int, Literal["conv", "conv3d"]] = {3: "conv", 4: "conv3d"}
    on_map = anatomy.layout == "NCHW" and len(shape) in kinds
    site = replace(
        anatomy.main,
        kind=kinds[len(shape)] if on_map else "linear",
        in_features=shape[0] if on_map else shape[-1],
        per_class=1,
    )
    return _Place(replace(anatomy, heads=(site,), pool=None, classify=None), (site,), shape, gone)


def _check_embeds(model: nn.Module, sites: tuple[Head, ...]) -> None:
    """Raise NotSupported where ``swap_head`` for no head leaves nothing to return, or features that do not add up."""
    if any(site.role in {"box", "mask", "level"} or site.per_class != 1 for site in sites):
        raise NotSupported(
            "a detector without its head has no output",
            cause="its own forward turns what its head sites give into boxes",
            hint="zoo.features(model, x) gives the feature maps of its stages",
        )
    if all(site.role != "summed" for site in sites):
        return
    twin = replaced(model, {site.path: nn.Identity() for site in sites})
    try:
        with torch.no_grad(), evaluating(twin):
            twin(example_input(model))
    except RuntimeError as error:
        raise NotSupported(
            f"this {type(model).__name__} cannot give embeddings",
            cause=f"its own forward adds up what its head sites give, and without heads they differ: {error}",
            hint="zoo.features(model, x) gives the feature maps of its stages",
        ) from error


def _after_swap(anatomy: Anatomy, sites: tuple[Head, ...], head: HeadLike) -> Any:
    """What the model does after the new head once a swap has put it in; None where it ends the forward pass."""
    after = one_head(anatomy)
    if after is None:
        check_output(head, sites)
    if isinstance(head, Mapping):
        return classify_each(anatomy, sites, head)
    return with_output(after, head)


def _follow(model: nn.Module, site: Head, counts: int | dict[str, int], head: HeadLike) -> nn.Module:
    """What a swap puts at a site beside the main one: a layer like the one there, or one for each of several heads.

    It ends as the main head does, so that one loss fits both.
    """
    if isinstance(counts, dict):
        given = head if isinstance(head, Mapping) else {}
        return fitted(model, site, {name: _plain_head_like(given.get(name), count) for name, count in counts.items()})
    return fitted(model, site, _plain_head_like(head, counts))


def _plain_head_like(head: object, num_classes: int) -> int | MLPHead | None:
    """What a swap puts at an auxiliary site: one layer, with the activation and squeeze of the main head, if any."""
    if num_classes == 0:
        return None
    if isinstance(head, MLPHead) and head.output:
        return MLPHead(num_classes, activation=head.activation, squeeze=head.squeeze)
    return num_classes


def _check_one_input(model: nn.Module) -> None:
    """Raise NotSupported for a swap that needs a new forward where the old one takes several values."""
    if isinstance(metadata_of(model).example, tuple | dict):
        raise NotSupported(
            f"this {type(model).__name__} cannot have a head of that kind",
            cause="its forward takes several values, and would have to be put together anew for this head",
            hint="give the number of classes, a zoo.mlp_head(...) without activation, or a module",
        )


def _swap_in(
    model: nn.Module, anatomy: Anatomy, new: list[nn.Module], gone: dict[str, nn.Module], *, own: bool
) -> Anatomy:
    """Swap the new heads in, and make the model run with them.

    Returns:
        The anatomy of the model from now on.
    """
    for path, place in gone.items():
        model.set_submodule(path, place)
    _warn_of_lost(model, anatomy.heads, new)
    for site, module in zip(anatomy.heads, new, strict=True):
        model.set_submodule(site.path, module)
        for path in site.attributes:
            set_attribute(model, path, site.num_classes)
    scores = library_scores(model, anatomy)
    anatomy = replace(anatomy, scores=None if own else scores)
    restore_forward(model)
    if own:
        recompose(model, anatomy, scores)
    return anatomy


def _warn_of_lost(model: nn.Module, sites: Sequence[Head], new: Sequence[nn.Module]) -> None:
    """Warn of what computes the weight of a layer that a swap takes away; other hooks move tensors, or look on.

    Warns:
        ZooWarning: The old layer has such a thing, and is no part of the new one.
    """
    for site, module in zip(sites, new, strict=True):
        old = model.get_submodule(site.path)
        hooks = (type(hook) for hook in old._forward_pre_hooks.values())  # noqa: SLF001 - torch has no other way
        lost = [each.__name__ for each in hooks if each.__module__.startswith("torch.nn.utils")]
        lost += [f"the parametrization of its {name}" for name in getattr(old, "parametrizations", {})]
        if lost and not any(part is old for part in module.modules()):
            warnings.warn(
                f"the new layer at {site.path!r} is plain, without {' and '.join(lost)} of the old one: "
                "apply it to the new layer, or give swap_head a module that has it",
                ZooWarning,
                stacklevel=5,
            )


def _without_hidden(model: nn.Module, anatomy: Anatomy, main: Head) -> tuple[Head, dict[str, nn.Module]]:
    """Where a swap puts the head once the hidden layers before it are gone, and the empty places they leave.

    Hidden are the first linear layer between pooling and head, and all that follows it: VGG's two, with their ReLU and
    dropout. A classifier that has none stays as it is.

    Raises:
        NotSupported: The family does not say which layers come before the head, or forward computes between them.
    """
    if not isinstance(anatomy.pool, Chain):
        raise NotSupported(
            "the hidden layers of this model cannot be dropped",
            cause="what its family does between features and head is one function, in which no layer can be told apart",
            hint='zoo.swap_head(model, head, at="features") puts a head of your own after the feature map',
        )
    steps = anatomy.pool.steps
    layers = [model.get_submodule(step) if isinstance(step, str) else None for step in steps]
    first = next((index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)), None)
    if first is None:
        return main, {}
    functions = [step for step in steps[first:] if not isinstance(step, str) and step is not flatten]
    if functions:
        raise NotSupported(
            "the hidden layers of this model cannot be dropped",
            cause=f"its forward calls {getattr(functions[0], '__name__', functions[0])} between them",
            hint='zoo.swap_head(model, head, at="features") puts a head of your own after the feature map',
        )
    hidden = layers[first]
    width = hidden.in_features if isinstance(hidden, nn.Linear) else main.in_features
    gone: dict[str, nn.Module] = {step: Absent() for step in steps[first:] if isinstance(step, str)}
    return replace(main, in_features=width), gone


def _emptied_places(model: nn.Module, anatomy: Anatomy, features: Tensor) -> dict[str, nn.Module]:
    """Places that a swap of the head at the feature map leaves empty: the modules with parameters in between.

    Args:
        model: In eval mode.
        anatomy: Where its parts are.
        features: What its features give; a pool that is a function runs on it once, to be watched.
    """
    if anatomy.pool is None:
        return {}
    if isinstance(anatomy.pool, Chain):
        run = [step for step in anatomy.pool.steps if isinstance(step, str)]
    else:
        run = _run_in(model, partial(anatomy.pool, model, features))
    sites = [head.path for head in anatomy.heads]
    paths: list[str] = []
    for path in run:
        holds_head = any(f"{site}.".startswith(f"{path}.") for site in sites)
        within = any(path.startswith(f"{other}.") for other in paths)
        if not holds_head and not within and next(model.get_submodule(path).parameters(), None) is not None:
            paths.append(path)
    return {path: Absent() for path in paths}


def _run_in(model: nn.Module, piece: Callable[[], Any]) -> list[str]:
    """Paths of the modules that run in the pool before a head to swap, those that hold others first."""
    seen: set[nn.Module] = set()
    with removing(part.register_forward_pre_hook(lambda part, _: seen.add(part)) for part in model.modules()):
        piece()
    return [path for path, part in model.named_modules() if part in seen and path]
