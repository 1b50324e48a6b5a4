"""The checks of the split: its parts give what the model gives, bit for bit, for any parameters, sizes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo_core.contract.card import Card
from zoo_core.errors import ZooError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.features.split import split
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.features import check_last_map, check_released
from zoo_core.testing.findings import NonConformance, NotChecked, difference, line_of_caller, require
from zoo_core.testing.under_test import (
    DETECTORS,
    arguments,
    by_shapes,
    calls_of,
    example,
    inputs_of,
    main_of,
    model_under_test,
    noisy,
    parameters_used,
    same,
    scores_of,
    tensors,
)
from zoo_core.tracing.trace import trace
from zoo_core.utils.duplicate import duplicate, without_values
from zoo_core.utils.meta_shapes import MetaShapes

_DETACHED = "features, pool or classify work under torch.no_grad() or on a detached tensor"
_IMAGES = 4
"""Axes of a batch of images."""


def check_split(card: Card) -> None:
    """``head(pool(features(x)))`` equals ``model(x)`` bit for bit in eval mode, whatever the parameters are."""
    main_of(card, model_under_test(card))
    _check_indivisible(card)
    if not by_shapes(card):
        model = noisy(card)
        _check_parts(card, model, example(card))
        for x in _other_images(card, model):
            _check_parts(card, model, x)
    proves = _check_parts(card, model_under_test(card), example(card))
    check_last_map(card)
    if not (proves or _check_parts(card, _copy_to_split(card), example(card))):
        raise NotChecked(f"{card.id} gives the same scores for two images, and those prove nothing of its split")


def _check_indivisible(card: Card) -> None:
    """Where ``Anatomy.indivisible`` says why forward does not split, tracing finds no split of it either."""
    model = model_under_test(card)
    anatomy = anatomy_of(model)
    is_traced = current_zoo().member(card.family).family.anatomy is None
    if anatomy.indivisible is None or is_traced or by_shapes(card) or card.task in DETECTORS:
        return
    try:
        traced = trace(model, example(card, batch=1)).anatomy
    except ZooError:  # which has no split either
        return
    found = traced.main is not None and anatomy.main is not None and traced.main.path == anatomy.main.path
    require(
        not found or traced.indivisible is not None,
        f"{card.id}: Anatomy.indivisible says {anatomy.indivisible!r}, and tracing splits it, bit for bit: "
        "zoo.trace(model, x).anatomy has features and pool",
    )


def _other_images(card: Card, model: nn.Module) -> Iterator[Tensor]:
    """Images to check the split with, if forward takes them: of larger values, in channels_last, and wider ones."""
    x = example(card, batch=1)
    others = [[16 * x]]
    if x.dim() == _IMAGES:
        others[0].insert(0, (16 * x).contiguous(memory_format=torch.channels_last))
        if tuple(x.shape[1:]) != card.input_size:
            others.append([torch.cat([x, x[..., : x.shape[-1] // 2]], -1)])
    for each in others:
        yield from islice((one for one in each if _is_taken(model, one)), 1)


def _is_taken(model: nn.Module, x: Tensor) -> bool:
    """Whether forward takes these images and gives numbers, so that the check can compare the split with it."""
    try:
        with torch.no_grad():
            return bool(scores_of(model, x).isfinite().all())
    except (RuntimeError, ValueError, AssertionError):  # as models say that they take another size
        return False


def _check_parts(card: Card, model: nn.Module, x: Tensor) -> bool:
    """Check that the parts of the split give what the model gives; True if two images differ, which proves it."""
    backbone, head = split(model)
    ours: Any = x
    steps: dict[str, Callable[[Any], Any]] = {"features": backbone.features, "pool": backbone.pool, "head": head}
    version = x._version  # noqa: SLF001 - torch's only way to say that it was written to
    with torch.no_grad():
        for name, step in steps.items():
            ours = _run_part(card, name, step, ours)
            written = x._version != version  # noqa: SLF001 - as above
            require(not written, f"{card.id}: the {name} of the split writes to the images that it is given")
        theirs = scores_of(model, x)
    scores = next(tensors(ours))
    if not same(scores, theirs):
        other = "" if x.shape == example(card).shape else f" for a batch of {len(x)}, an image of {list(x.shape[1:])}"
        raise NonConformance(f"{card.id}: split and forward differ by up to {difference(scores, theirs)}{other}")
    shared = {id(p) for p in backbone.parameters()} & {id(p) for p in head.parameters()}
    require(not shared, f"{card.id}: backbone and head have {len(shared)} parameters in common")
    return scores.is_meta or bool((scores[0] != scores[-1]).any())


def _copy_to_split(card: Card) -> nn.Module:
    """A copy to check the split of, with norms that know their inputs: GoogLeNet's signal dies before its head."""
    model = duplicate(model_under_test(card))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the class of those of any dimension
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches, of which there will be one
    with torch.no_grad():
        model.train()(example(card))
    return model.eval()


def _run_part(card: Card, name: str, step: Callable[[Any], Any], given: Any) -> Any:
    """Run one part of a split model (features, pool or head); what it raises fails the check."""
    try:
        return step(given)
    except Exception as error:
        shape = str(list(given.shape)) if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
        if isinstance(given, torch.Tensor) and not given.is_contiguous():
            shape += " in channels_last"
        raise NonConformance(
            f"{card.id}: the {name} of the split fails on {shape}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause="Anatomy.features, pool and classify leave out a step of the model's own forward",
        ) from error


def check_other_inputs(card: Card) -> None:
    """The split uses the same layers and dtypes as forward, whatever the size, the dtype and the values of the images.

    They run without values, which takes no time; a forward that looks at values runs on darker and brighter images.

    Raises:
        NonConformance: They do not, or features keep what they computed.
    """
    if card.task in DETECTORS or card.task == "optical_flow":
        return
    model = without_values(model_under_test(card))
    try:
        parts = nn.Sequential(*split(model))
    except ZooError:  # it cannot be split, which the check of the split says
        return
    x = example(card).to("meta")
    needs_values = False
    try:
        with torch.enable_grad():
            small = _left_out_by_forward(card, model, parts, x)
    except NonConformance:
        raise
    except Exception:  # noqa: BLE001 - whatever a model without values raises
        needs_values = True
    else:
        _check_size(card, model, parts, small)
        check_released(card, parts[0], x)
        _check_dtype(card, model, parts, x)
    if needs_values and not by_shapes(card):
        _check_values(card)


def _left_out_by_forward(card: Card, model: nn.Module, parts: nn.Module, x: Tensor) -> set[str]:
    """The parameters that the split computes with and forward leaves out; the other way round is a finding."""
    theirs = parameters_used(model, scores_of(model, x))
    ours = parameters_used(model, next(tensors(parts(x))))
    missing = [name for name in theirs if name not in ours]
    require(
        not missing, f"{card.id}: in eval mode no gradient of its split reaches {', '.join(missing[:5])}: {_DETACHED}"
    )
    return {*ours} - {*theirs}


def _check_size(card: Card, model: nn.Module, parts: nn.Module, known: set[str]) -> None:
    """Check that the split computes with the same parameters as forward for images of the size of the card."""
    x = torch.zeros(2, *card.input_size, device="meta")
    try:
        with torch.enable_grad():
            theirs, ours = parameters_used(model, scores_of(model, x)), parameters_used(model, next(tensors(parts(x))))
    except Exception:  # noqa: BLE001 - it may need values there
        _check_own_size(card)
        return
    other = [name for name in {**theirs, **ours} if (name in theirs) != (name in ours) and name not in known]
    require(
        not other,
        f"{card.id}: for images of {card.input_size} forward computes with other layers than the split: "
        f"{', '.join(other[:5])}; forward looks at the size, and takes another path than for smaller ones",
    )


def _check_own_size(card: Card) -> None:
    """Check, before the split is, that forward takes images of the size of its card, where it takes smaller ones."""
    if by_shapes(card):
        return
    try:
        with torch.no_grad():
            model_under_test(card)(torch.zeros(1, *card.input_size, device="cpu"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise NonConformance(
            f"{card.id}: it takes no images of the input_size of its card, {card.input_size}, and smaller ones it does",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
        ) from error


def _check_dtype(card: Card, model: nn.Module, parts: nn.Module, x: Tensor) -> None:
    """Check that the split of a model of float64 computes in float32 in no more steps than forward."""
    model, parts = model.double(), parts.double()
    counts = []
    with torch.no_grad(), MetaShapes():
        for each in (model, parts):
            with _InFloat32() as steps:
                try:
                    each(x.double())
                except Exception:  # noqa: BLE001 - a library that makes tensors of float32 itself
                    if each is model:
                        return
            counts.append(steps.lines)
    theirs, ours = counts
    require(
        len(ours) <= len(theirs),
        f"{card.id}: a part of the split computes in float32 in a model of float64, where forward does not"
        f"{next((line for line in ours if line not in theirs), '')}; x.float() loses digits, and a dtype",
    )


class _InFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Notes what in forward, or in its split, gives a tensor of float32, with the line that it is in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self.lines: list[str] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) and each.dtype is torch.float32 for each in tree_leaves(result)):
            self.lines.append(line_of_caller())
        return result


def _check_values(card: Card) -> None:
    """Check that the split gives what forward gives for darker and brighter images, where forward looks at values."""
    model = noisy(card)
    parts = nn.Sequential(*split(model))
    heads = [head.path for head in anatomy_of(model).heads if head.role == "main"]
    x = example(card, batch=1)
    first = {*calls_of(model, heads, inputs_of(card, batch=1))}
    for name, images in _of_other_values(x):
        with torch.no_grad():
            theirs = scores_of(model, images)
        path = next((path for path in first - {*calls_of(model, first, (images,))}), None)
        require(path is None, f"{card.id}: head site {path!r} is not called for {name} images: forward looks at values")
        with torch.no_grad():
            ours = next(tensors(parts(images)))
        if bool(theirs.isfinite().all()) and not same(ours, theirs):
            raise NonConformance(
                f"{card.id}: split and forward differ by up to {difference(ours, theirs)} for {name} images",
                cause="forward looks at values, and takes another path for some images",
            )


def _of_other_values(x: Tensor) -> Iterable[tuple[str, Tensor]]:
    """Images to check the split with for which forward may take another way, as they are darker or brighter."""
    yield "darker", x - 3
    yield "brighter", x + 3
    yield "louder", 16 * x
    yield "empty", torch.zeros_like(x)


def check_other_batch(card: Card, model: nn.Module, parts: nn.Module, x: Tensor) -> None:
    """Check that the parts of the split, without values, take a batch of three where forward does."""
    with torch.no_grad():
        try:
            expected = [*scores_of(model, *arguments(card, x)).shape]
        except Exception:  # noqa: BLE001 - it needs values, or has one batch size
            return
        try:
            got = f"scores of the shape {[*next(tensors(parts(x))).shape]}"
        except Exception as error:  # noqa: BLE001 - what the parts raise can be anything
            got = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if got != f"scores of the shape {expected}":
        raise NonConformance(
            f"{card.id}: the split does not take a batch of {len(x)}, as forward does",
            expected=f"scores of the shape {expected}",
            got=got,
            cause="Anatomy.features, pool or classify has the size of a batch written into it",
        )
