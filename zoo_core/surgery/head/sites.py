"""Fitting modules to the head sites of a model, with or without the hidden layers of its classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.contract.chain import Chain, flatten
from zoo_core.errors import HeadMismatch, NotSupported, UsageError
from zoo_core.surgery.adapters import plain_layer
from zoo_core.surgery.features.split import Absent
from zoo_core.surgery.head.mlp import MLPHead, Squeeze
from zoo_core.surgery.head.multi_head import Heads, check_names
from zoo_core.surgery.hold import hold_frozen_parts
from zoo_core.surgery.knowledge import anatomy_of, class_names_of, unwrap
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.utils.arguments import check_num_classes, strict_arguments
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.memory_format import follows, lay_last

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from zoo_core.contract.anatomy import Anatomy, Head


def without_hidden(model: nn.Module, anatomy: Anatomy, main: Head) -> tuple[Head, dict[str, nn.Module]]:
    """The head site as it is when the hidden layers before it are gone, and the empty places they leave.

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


def between(model: nn.Module, anatomy: Anatomy, features: Tensor) -> dict[str, nn.Module]:
    """An empty place for each module with parameters between the feature map and the head site.

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
    """Paths of the modules that run in a piece of a forward pass up to the head site, those that hold others first."""
    seen: set[nn.Module] = set()
    handles = [part.register_forward_pre_hook(lambda part, _: seen.add(part)) for part in model.modules()]
    try:
        piece()
    finally:
        for handle in handles:
            handle.remove()
    return [path for path, part in model.named_modules() if part in seen and path]


OneHead = int | nn.Module | MLPHead | Callable[[int], nn.Module] | None
HeadLike = OneHead | Mapping[str, OneHead]
"""What a head can be said to be: a number of classes, a description, a module, a function of the number of features
that makes one, None for no head, or several of them by name."""

_PROBE_BATCH = 2
_PROBE_SIDE = 7
_SPATIAL = {"linear": 0, "conv1d": 1, "conv": 2, "conv3d": 3}
_CONVOLUTIONS: dict[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    "conv1d": nn.Conv1d,
    "conv": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


def made_for(site: Head, head: Any) -> Any:  # noqa: ANN401 - any kind of head
    """``head``, with each function in it called with the number of features that the head site gives."""
    if isinstance(head, Mapping):
        return {name: made_for(site, each) for name, each in head.items()}
    if callable(head) and not isinstance(head, nn.Module | MLPHead):
        with on_the_cpu():
            return head(site.in_features)
    return head


def fitted(model: nn.Module, site: Head, head: object) -> nn.Module:
    """The module that ``head`` means at a head site, with the device, dtype, format and mode of what is there.

    Raises:
        UsageError: ``head`` is none of the things that a head can be.
    """
    if head is None:
        return nn.Identity().train(model.get_submodule(site.path).training)
    if isinstance(head, MLPHead):
        scores = head.num_classes * site.per_class
        with on_the_cpu():
            new = replace(head, num_classes=scores).build(site)
        return _settle(new, model, site)
    if isinstance(head, nn.Module):
        hold_frozen_parts(head)
        return _settle(head, model, site)
    if isinstance(head, Mapping):
        check_names(head)
        heads = Heads({name: fitted(model, site, each) for name, each in head.items()})
        return heads.train(model.get_submodule(site.path).training)
    if isinstance(head, str) or not isinstance(head, int):
        raise UsageError(
            f"a head cannot be {head!r}",
            expected="the number of classes, a zoo.mlp_head(...), a torch module, None, or a dict of these by name",
            got=f"a {type(head).__name__}",
        )
    if head == 0 and not isinstance(head, bool):
        raise UsageError("a head cannot have 0 classes", hint="None takes the head off: the model gives embeddings")
    return _layer_like(model, site, check_num_classes(head))


def _layer_like(model: nn.Module, site: Head, num_classes: int) -> nn.Module:
    """A layer like the one at the head site, with another number of classes."""
    with on_the_cpu():
        new = _unsettled(model, site, num_classes)
    if site.prior is not None and new.bias is not None:
        nn.init.constant_(new.bias, math.log(site.prior / (1 - site.prior)))
    return _settle(new, model, site)


def _unsettled(model: nn.Module, site: Head, num_classes: int) -> nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A new layer for a head site, like the one there, which still lacks the device and dtype of that one."""
    old = plain_layer(model.get_submodule(site.path))
    layers = [layer for layer in old.modules() if isinstance(layer, (nn.Linear, *_CONVOLUTIONS.values()))]
    has_bias = layers[-1].bias is not None if layers else True
    scores = num_classes * site.per_class
    if site.kind == "linear":
        return nn.Linear(site.in_features, scores, bias=has_bias)
    kind = _CONVOLUTIONS[site.kind]
    if isinstance(old, kind):
        shape: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        return kind(site.in_features, scores, bias=has_bias, **shape)
    return kind(site.in_features, scores, kernel_size=1)


def count_scores(head: nn.Module, site: Head, shape: Sequence[int] | None = None) -> int | dict[str, int]:
    """How many classes a new head scores at its site, by running it once on zeros; by name for several heads.

    One that holds nothing to score with, such as an ``Identity`` or a norm, scores none: it gives the features.

    Args:
        head: The new head.
        site: Where it goes.
        shape: Of what the site is given, without the batch; None for any that has the site's number of features.

    Raises:
        HeadMismatch: It does not take that, or returns something else than scores for each sample.
    """
    if isinstance(head, Heads):
        return {name: _count(each, site, shape) for name, each in head.items()}
    return _count(head, site, shape)


def classes_by_head(model: nn.Module, site: Head | None) -> dict[str, int]:
    """How many classes each of several heads at a head site scores; empty for one head, or none."""
    heads = model.get_submodule(site.path) if site else None
    if site is None or not isinstance(heads, Heads):
        return {}
    try:
        return {name: _count(head, site, None) for name, head in heads.items()}
    except HeadMismatch:  # one that flattens a map of one size
        return {}


@strict_arguments
def class_names(model: nn.Module) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """What the classes that the head site of ``model`` scores are called, in that order; empty when unknown.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt``.

    Returns:
        The names; by head, where the model has several heads and their names were saved. In detectors and segmentation,
        class 0 is the background and has the first name.

    Raises:
        NotAZooModel: zoo knows nothing about it.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.class_names(zoo.get("tiny/glyphnet"))[:3]
        ('A', 'B', 'C')
    """
    names, counts = class_names_of(model), classes_by_head(unwrap(model), anatomy_of(model).main)
    if not names or sum(counts.values()) != len(names):
        return names
    rest = iter(names)
    return {head: tuple(islice(rest, count)) for head, count in counts.items()}


def _count(head: nn.Module, site: Head, shape: Sequence[int] | None) -> int:
    """How many classes one head scores at a site, found by running it on zeros of the shape that the site is given."""
    if isinstance(head, nn.Identity):
        return 0
    part = scoring_part(head)
    is_bare = has_nothing_to_score_with(part)
    given = (_PROBE_BATCH, *(shape or (site.in_features, *[_probe_side(head)] * _SPATIAL[site.kind])))
    like = next(head.parameters(), torch.empty(0, device="cpu"))
    try:
        with torch.no_grad(), evaluating(head):
            scores = head(torch.zeros(given, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _mismatch(head, site, shape, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not isinstance(scores, torch.Tensor) or scores.shape[:1] != given[:1]:
        raise _mismatch(head, site, shape, f"it returned {_shape(scores)} for a batch of {_PROBE_BATCH}")
    width = 1 if scores.dim() == 1 or _squeezes(head) else int(scores.shape[1])
    if width % site.per_class:
        raise _mismatch(
            head, site, shape, f"it returned {width} scores, and the site takes {site.per_class} for each class"
        )
    return 0 if is_bare and (_is_torchs(part) or width == site.in_features) else width // site.per_class


def _probe_side(head: nn.Module) -> int:
    """How long the sides of a map are that a head is tried on: at least as long as what its convolutions look at."""
    layers = [each for each in head.modules() if isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    reaches = [step * (k - 1) + 1 for each in layers for k, step in zip(each.kernel_size, each.dilation, strict=True)]
    return max([_PROBE_SIDE, *reaches])


def scoring_part(head: nn.Module) -> nn.Module:
    """What scores in a head at its site: the head itself, or that of a branch with stages of its own."""
    body, site = getattr(head, "body", None), getattr(head, "site", None)
    return body.get_submodule(site) if isinstance(body, nn.Module) and isinstance(site, str) else head


def _is_torchs(module: nn.Module) -> bool:
    """Whether only torch's code runs in a head at a site: a user's own may score without a tensor that is saved."""
    return all(type(each).__module__.startswith("torch.nn.") for each in module.modules())


def _squeezes(head: nn.Module) -> bool:
    """Whether a head at a site drops the axis of its single score at the end."""
    return isinstance(head, nn.Sequential) and any(isinstance(layer, Squeeze) for layer in head[-1:])


def _settle(new: nn.Module, model: nn.Module, site: Head) -> nn.Module:
    """Give the new module at a head site the device, dtype, memory format and mode of what it replaces."""
    old = model.get_submodule(site.path)
    reference = next(old.parameters(), None)
    if reference is None:
        reference = next(model.parameters(), None)
    if reference is not None:
        new = new.to(device=reference.device, dtype=reference.dtype)
    if follows(old, model):
        lay_last(new)
    is_frozen = next(new.parameters(), None) is not None and not any(each.requires_grad for each in new.parameters())
    return new if is_frozen else new.train(old.training)  # a frozen head keeps the modes that its owner gave it


def _mismatch(head: nn.Module, site: Head, shape: Sequence[int] | None, got: str) -> HeadMismatch:
    """The error for a head that does not fit its site, with what the site gives and the head takes."""
    sides: tuple[str, ...] = ("T", "H", "W")[3 - _SPATIAL[site.kind] :]
    given = ", ".join(str(size) for size in ("N", *(shape or [site.in_features]), *(() if shape else sides)))
    takes = _input_of(head)
    return HeadMismatch(
        f"the new head does not fit the site {site.path!r}",
        expected=f"a module that takes [{given}], which is what the site gives",
        got=f"one whose first layer takes {takes}; {got}" if takes else got,
        hint=f"give its first layer {site.in_features} inputs, or use zoo.mlp_head(...), which asks the site",
        path=site.path,
        in_features=site.in_features,
    )


def _input_of(head: nn.Module) -> str | None:
    """What the first layer of a head takes, for the error where it does not fit the site."""
    for module in head.modules():
        for name in ("in_features", "in_channels", "num_features"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                return f"[N, {size}]" if name == "in_features" else f"[N, {size}, ...]"
    return None


def _shape(value: object) -> str:
    """The shape of what a head returned at its site, or its type where it is no tensor."""
    return str(list(value.shape)) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
