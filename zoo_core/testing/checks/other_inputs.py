"""The part of the check of forward that looks at other inputs: other sizes, another dtype, and other values."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo_core.errors import ZooError
from zoo_core.surgery.features.split import split
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.checks.split import noisy
from zoo_core.testing.checks.structure import calls_of
from zoo_core.testing.findings import NonConformance, require
from zoo_core.testing.meta_shapes import MetaShapes
from zoo_core.testing.outputs import difference, line_of_caller, parameters_used, same, scores_of, tensors
from zoo_core.testing.under_test import (
    DETECTORS,
    by_shapes,
    example,
    inputs_of,
    model_under_test,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo_core.contract.card import Card

_DETACHED = "features, pool or classify work under torch.no_grad() or on a detached tensor"


def check_other_inputs(card: Card) -> None:
    """Forward and split use the same layers and dtypes, whatever the size, the dtype and the values of the images.

    They run without values, which takes no time; a forward that looks at values runs on darker and brighter images.

    Raises:
        NonConformance: They do not, or features keep what they computed.
    """
    if card.task in DETECTORS or card.task == "optical_flow":
        return
    model = _without_values(model_under_test(card))
    try:
        parts = nn.Sequential(*split(model))
    except ZooError:  # it cannot be split, which the check of the split says
        return
    x = example(card).to("meta")
    needs_values = False
    try:
        with torch.enable_grad():
            small = _layers(card, model, parts, x)
    except NonConformance:
        raise
    except Exception:  # noqa: BLE001 - whatever a model without values raises
        needs_values = True
    else:
        _check_size(card, model, parts, small)
        _check_released(card, parts[0], x)
        _check_dtype(card, model, parts, x)
    if needs_values and not by_shapes(card):
        _check_values(card)


def _without_values(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device, made without a copy of its values."""
    empty: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        bare = tensor.detach().to("meta")
        empty[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
    return copy.deepcopy(model, empty)


def _layers(card: Card, model: nn.Module, parts: nn.Module, x: Tensor) -> set[str]:
    """The parameters that the split computes with and forward does not; refused where it is the other way round."""
    theirs = parameters_used(model, scores_of(model, x))
    ours = parameters_used(model, next(tensors(parts(x))))
    missing = [name for name in theirs if name not in ours]
    require(
        not missing, f"{card.id}: in eval mode no gradient of its split reaches {', '.join(missing[:5])}: {_DETACHED}"
    )
    return {*ours} - {*theirs}


def _check_size(card: Card, model: nn.Module, parts: nn.Module, known: set[str]) -> None:
    """For images of the size of the card forward and split compute with the same parameters too."""
    x = torch.zeros(2, *card.input_size, device="meta")
    try:
        with torch.enable_grad():
            theirs, ours = parameters_used(model, scores_of(model, x)), parameters_used(model, next(tensors(parts(x))))
    except Exception:  # noqa: BLE001 - a model of another size; that it runs in its own is another check's
        return
    other = [name for name in {**theirs, **ours} if (name in theirs) != (name in ours) and name not in known]
    require(
        not other,
        f"{card.id}: for images of {card.input_size} forward computes with other layers than the split: "
        f"{', '.join(other[:5])}; forward looks at the size, and takes another path than for smaller ones",
    )


def _check_released(card: Card, backbone: nn.Module, x: Tensor) -> None:
    """Features that were computed are gone from memory once nothing refers to them and others were computed."""
    with torch.no_grad(), MetaShapes():
        kept = [weakref.ref(each) for each in tensors(backbone.features(x.clone()))]  # type: ignore[operator] # a part
        backbone.features(x.clone())  # type: ignore[operator] # as above
    if any(each() is not None for each in kept):
        gc.collect()
    require(
        all(each() is None for each in kept),
        f"{card.id}: what Anatomy.features computed stays in memory when others are computed: a function that it calls "
        "keeps it",
    )


def _check_dtype(card: Card, model: nn.Module, parts: nn.Module, x: Tensor) -> None:
    """In float64 the split computes no more of its steps in float32 than forward does."""
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
    """Notes what gives a tensor of float32, with the line that it is in."""

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
    """A forward that looks at values takes the way of the split for darker, brighter and louder images too."""
    model = noisy(card)
    parts = nn.Sequential(*split(model))
    heads = [head.path for head in anatomy_of(model).heads if head.role == "main"]
    x = example(card, batch=1)
    first = {*calls_of(model, heads, inputs_of(card, batch=1))}
    for name, images in _others(x):
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


def _others(x: Tensor) -> Iterable[tuple[str, Tensor]]:
    """Images of other values than those under test, with a word for them."""
    yield "darker", x - 3
    yield "brighter", x + 3
    yield "louder", 16 * x
    yield "empty", torch.zeros_like(x)
