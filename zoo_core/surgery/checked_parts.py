"""What one run shows of a model that was changed by hand: whether its parts still give what its forward gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoo_core.contract.chain import Chain
from zoo_core.surgery.features.forward import entered, left, run_on
from zoo_core.surgery.layers import has_nothing_to_score_with
from zoo_core.surgery.structure import Kind, gone, noise
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from zoo_core.contract.anatomy import Anatomy, Head

OWN_FORWARD = "its forward was replaced by hand, and does not end with its head"
"""Of ``Anatomy.indivisible``: what :func:`with_own_forward` says where nothing can be split off."""
RANDOM = "it gives something else each time it runs, so no split can be proven"
"""Of ``Anatomy.indivisible`` too: what the proof of a traced split says; the head may be the last layer anyway."""


def with_checked_split(model: nn.Module, anatomy: Anatomy, size: tuple[int, ...]) -> Anatomy:
    """Check that an anatomy still holds after a head was changed by hand: run the model whole and in its parts.

    A model that does not run on noise of that size, and one of several head sites, is believed. The place of a head
    that was taken out takes what it is given, such as a map where the pool was taken out too.

    Args:
        model: As it is now.
        anatomy: Where its parts are.
        size: Channels, rows and columns of what its forward takes.

    Returns:
        The anatomy, with the width of such a place.

    Raises:
        AnatomyError: The parts do not give what the whole gives, or the head site is given something else.
    """
    main, features = anatomy.main, anatomy.features
    one_site = main is not None and all(head.role in {"main", "aux"} for head in anatomy.heads)
    if main is None or features is None or not one_site or _cannot_run(model):
        return anatomy
    with inferring(model):
        try:
            x = noise(model, size)
            scores = anatomy.scores_in(model(x))
        except Exception:  # noqa: BLE001 - it takes something else than an image
            return anatomy
        try:
            pooled = (anatomy.pool or Chain())(model, features(model, entered(model, x)))
            result = (anatomy.classify or Chain(main.path))(model, pooled)
            result = left(model, pooled, result) if anatomy.scores is None else result
        except Exception as error:
            raise gone(model, main.path) from error
    site = _taking(main, pooled) if has_nothing_to_score_with(model.get_submodule(main.path)) else main
    if not (_alike(result, scores) and _takes(site, pooled)):
        raise gone(model, main.path)
    return replace(anatomy, heads=tuple(site if each is main else each for each in anatomy.heads))


def with_own_forward(model: nn.Module, anatomy: Anatomy, size: tuple[int, ...], example: Any = None) -> Anatomy:  # noqa: ANN401 - whatever forward takes
    """The anatomy that still holds for a model whose forward was replaced by hand, as one run shows it.

    Args:
        model: As it is now.
        anatomy: Where its parts were.
        size: Channels, rows and columns of what its forward takes.
        example: What it takes, where that is no image.

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
        x = noise(model, size) if example is None else example
        head = model.get_submodule(main.path) if main else nn.Identity()
        handle = head.register_forward_hook(lambda _, args, output: at_head.append((args[0], output)))
        try:
            with suppress(Exception):  # whatever a forward raises that takes something else than an image
                outputs.append(anatomy.scores_in(run_on(model, x, x)))
        finally:
            handle.remove()
        with suppress(Exception):  # as above, and what modules raise that are given something else than before
            outputs.append(_in_parts(model, anatomy, x))
    if len(outputs) > 1 and _alike(*outputs):
        return anatomy
    whole = replace(anatomy, features=None, pool=None, classify=None)
    if main and outputs and len(at_head) == 1 and _alike(at_head[0][1], outputs[0]) and _takes(main, at_head[0][0]):
        return whole
    return replace(whole, indivisible=OWN_FORWARD)


def _in_parts(model: nn.Module, anatomy: Anatomy, x: Any) -> Any:  # noqa: ANN401 - whatever forward takes and returns
    """What the parts of a model give, one after another, to see whether its anatomy still holds."""
    if anatomy.features is None or anatomy.main is None:
        raise gone(model, "")
    pooled = (anatomy.pool or Chain())(model, anatomy.features(model, entered(model, x)))
    result = (anatomy.classify or Chain(anatomy.main.path))(model, pooled)
    return left(model, pooled, result) if anatomy.scores is None else result


def _cannot_run(model: nn.Module) -> bool:
    """Whether no run can show if an anatomy still holds: there are no values here, or only shards of them."""
    return any(each.is_meta or hasattr(each, "device_mesh") for each in model.parameters())


def _taking(site: Head, pooled: Any) -> Head:  # noqa: ANN401 - as a pool gives it
    """An empty head site of a changed model, as the anatomy has to have it by what it is given now."""
    if not isinstance(pooled, torch.Tensor) or _takes(site, pooled):
        return site
    kinds: dict[int, Kind] = {3: "conv1d", 4: "conv", 5: "conv3d"}
    kind: Kind = kinds.get(pooled.dim(), "linear")
    return replace(site, kind=kind, in_features=pooled.shape[-1 if kind == "linear" else 1])


def _takes(site: Head, pooled: Any) -> bool:  # noqa: ANN401 - as a pool gives it
    """Whether an anatomy still holds for what a head site is given: its number of features, on the axis for them."""
    if not isinstance(pooled, torch.Tensor):
        return True
    return pooled.shape[-1 if site.kind == "linear" else 1] == site.in_features


def _alike(one: Any, other: Any) -> bool:  # noqa: ANN401 - whatever forward returns
    first, second = tree_leaves(one), tree_leaves(other)
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, equal_nan=True, rtol=1e-3, atol=1e-5)
        for a, b in zip(first, second, strict=True)
    )
