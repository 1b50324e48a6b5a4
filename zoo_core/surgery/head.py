"""Replacing the classifier of any model, its auxiliary heads included."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from zoo_core.errors import HeadMismatch, NotSupported, UsageError
from zoo_core.surgery.checks import check_num_classes, strict_arguments
from zoo_core.surgery.knowledge import anatomy_of, record_edit, record_new_heads, unwrap
from zoo_core.surgery.mlp import MLPHead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo_core.parts import Head

Model = TypeVar("Model", bound=nn.Module)

_PROBE_BATCH = 2
_PROBE_SIDE = 7


@strict_arguments
def swap_head(model: Model, head: int | nn.Module | MLPHead, *, seed: int | None = None) -> Model:
    """Replace the classifier of ``model``; auxiliary and distilled heads follow with plain layers of as many classes.

    The new head is born on the device, in the dtype and in the memory format of the one it replaces, trainable, and in
    its train or eval mode. Every other tensor, and every key of the state dict outside the head, stays as it is.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        head: The number of classes, for a layer like the one that is there; a description from ``zoo.mlp_head``; or a
            module that takes what the site gives, ``[N, in_features]`` or ``[N, in_features, H, W]``, and returns
            scores, ``[N, num_classes, ...]``.
        seed: Makes the new parameters reproducible without touching the global random state.

    Returns:
        The same model.

    Raises:
        UsageError: ``head`` is a number below 1, or of another type.
        HeadMismatch: The module does not take what the site gives; the message says both.
        NotSupported: The model has no head.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("vgg11", weights=None)
        >>> zoo.swap_head(model, 9).classifier[6]
        Linear(in_features=4096, out_features=9, bias=True)
    """
    bare = unwrap(model)
    sites = _sites(model)
    with seeded(seed, bare):
        new_main = _make(bare, sites[0], head)
        num_classes = _probe(new_main, sites[0])
        new = [new_main, *(_like(bare, site, num_classes) for site in sites[1:])]
    before = set(bare.state_dict())
    for site, module in zip(sites, new, strict=True):
        bare.set_submodule(site.path, module.requires_grad_())
        for path in site.attributes:
            _set_attribute(bare, path, num_classes)
    under_sites = tuple(f"{site.path}." for site in sites)
    record_edit(bare, "swap_head", head=head)
    record_new_heads(
        bare,
        tuple(replace(site, num_classes=num_classes) for site in _all_main_first(model)),
        removed={name for name in before if name.startswith(under_sites)},
        added=[name for name in bare.state_dict() if name.startswith(under_sites)],
    )
    return model


def _sites(model: nn.Module) -> tuple[Head, ...]:
    sites = _all_main_first(model)
    if not sites:
        raise NotSupported(
            f"this {type(unwrap(model)).__name__} has no head to replace",
            cause="it computes something other than class scores",
            hint="zoo list --task classification names the models that have one",
        )
    return sites


def _all_main_first(model: nn.Module) -> tuple[Head, ...]:
    return tuple(sorted(anatomy_of(model).heads, key=lambda site: site.role != "main"))


def _make(model: nn.Module, site: Head, head: object) -> nn.Module:
    if isinstance(head, MLPHead):
        return _settle(head.build(site), model, site)
    if isinstance(head, nn.Module):
        return _settle(head, model, site)
    if isinstance(head, str) or not isinstance(head, int):
        raise UsageError(
            f"a head cannot be {head!r}",
            expected="the number of classes, a zoo.mlp_head(...) or a torch module",
            got=f"a {type(head).__name__}",
        )
    return _like(model, site, check_num_classes(head))


def _like(model: nn.Module, site: Head, num_classes: int) -> nn.Module:
    """A layer like the one at the site, with another number of classes."""
    old = model.get_submodule(site.path)
    has_bias = getattr(old, "bias", True) is not None
    if site.kind == "linear":
        return _settle(nn.Linear(site.in_features, num_classes, bias=has_bias), model, site)
    if isinstance(old, nn.Conv2d):
        shape: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        return _settle(nn.Conv2d(site.in_features, num_classes, bias=has_bias, **shape), model, site)
    return _settle(nn.Conv2d(site.in_features, num_classes, kernel_size=1), model, site)


def _settle(new: nn.Module, model: nn.Module, site: Head) -> nn.Module:
    """Give ``new`` the device, dtype, memory format and mode of what it replaces."""
    old = model.get_submodule(site.path)
    reference = next(old.parameters(), None)
    if reference is None:
        reference = next(model.parameters(), None)
    if reference is not None:
        new = new.to(device=reference.device, dtype=reference.dtype)
        if reference.dim() == 4 and reference.is_contiguous(memory_format=torch.channels_last):  # noqa: PLR2004 - NCHW
            new = new.to(memory_format=torch.channels_last)
    return new.train(old.training)


def _probe(head: nn.Module, site: Head) -> int:
    """How many scores the head gives, found by running it once on what the site gives."""
    side = (_PROBE_SIDE, _PROBE_SIDE) if site.kind == "conv" else ()
    shape = (_PROBE_BATCH, site.in_features, *side)
    like = next(head.parameters(), torch.empty(0))
    modes = {module: module.training for module in head.modules()}
    try:
        with torch.no_grad():
            scores = head.eval()(torch.zeros(shape, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _mismatch(head, site, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if not isinstance(scores, torch.Tensor) or scores.shape[:1] != shape[:1]:
        raise _mismatch(head, site, f"it returned {_shape(scores)} for a batch of {_PROBE_BATCH}")
    return 1 if scores.dim() == 1 else int(scores.shape[1])


def _mismatch(head: nn.Module, site: Head, got: str) -> HeadMismatch:
    given = f"[N, {site.in_features}, H, W]" if site.kind == "conv" else f"[N, {site.in_features}]"
    takes = _input_of(head)
    return HeadMismatch(
        f"the new head does not fit the site {site.path!r}",
        expected=f"a module that takes {given}, which is what the site gives",
        got=f"one whose first layer takes {takes}; {got}" if takes else got,
        hint=f"give its first layer {site.in_features} inputs, or use zoo.mlp_head(...), which asks the site",
        path=site.path,
        in_features=site.in_features,
    )


def _input_of(head: nn.Module) -> str | None:
    for module in head.modules():
        for name in ("in_features", "in_channels", "num_features"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                return f"[N, {size}]" if name == "in_features" else f"[N, {size}, ...]"
    return None


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _set_attribute(model: nn.Module, path: str, value: int) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, value)


@contextmanager
def seeded(seed: int | None, model: nn.Module | None = None) -> Iterator[None]:
    """Draw from ``seed`` inside the block and leave the global random state as it was; None changes nothing.

    Args:
        seed: Any integer, or None.
        model: The model whose devices' generators are covered too.
    """
    if seed is None:
        yield
        return
    parameters = model.parameters() if model is not None else ()
    devices = {parameter.device for parameter in parameters if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.manual_seed(seed)
        yield
