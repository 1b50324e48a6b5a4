"""Running a model without values fast: the shapes of its most frequent layers, found without torch's own rules.

On the meta device torch finds the shape of a norm, of attention or of a linear layer by decomposing it in Python,
which takes a millisecond each: three quarters of the time that a network of a hundred layers needs there. Their shapes
are known without that. What a layer would refuse is left to torch, which has the words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HEADS_APART = 4


class MetaShapes(TorchFunctionMode):
    """Inside the block, frequent layers on the meta device give their shapes at once, where no gradient is requested.

    Example:
        >>> with torch.no_grad(), MetaShapes():
        ...     torch.nn.BatchNorm2d(3, device="meta").eval()(torch.empty(2, 3, 8, 8, device="meta")).shape
        torch.Size([2, 3, 8, 8])
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer for a function of torch."""
        return with_meta_shapes(function, args, kwargs or {})


def with_meta_shapes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a function of torch gives: on the meta device at once where the shape is known, and else by torch itself.

    Args:
        function: Of torch.
        args: What it is given.
        kwargs: The same by name.

    Example:
        >>> with_meta_shapes(F.relu, (torch.empty(2, 3, device="meta"),), {}).shape
        torch.Size([2, 3])
    """
    rule = _RULES.get(function)
    if rule and args and isinstance(args[0], Tensor) and args[0].is_meta and not _traced(*args, *kwargs.values()):
        result = rule(*args, **kwargs)
        if result is not None:
            return result
    return function(*args, **kwargs)


def _traced(*given: object) -> bool:
    """Whether a gradient is requested, so that torch itself has to run on the meta device."""
    return torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in given)


def _like(x: Tensor, *_: object, inplace: bool = False, **__: object) -> Tensor:
    """The shape that an activation gives on the meta device, or another layer that keeps the shape of its input."""
    return x if inplace else torch.empty_like(x)


def _batch_norm(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None = None, *_: object, **__: object
) -> Tensor | None:
    """The shape of a batch norm on the meta device."""
    fits = all(given is None or given.shape == x.shape[1:2] for given in (mean, var, weight))
    return torch.empty_like(x) if fits else None


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], *_: object, **__: object) -> Tensor | None:
    """The shape of a layer norm on the meta device."""
    fits = x.shape[x.dim() - len(normalized_shape) :] == tuple(normalized_shape)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device) if fits else None


def _group_norm(x: Tensor, num_groups: int, *_: object, **__: object) -> Tensor | None:
    """The shape of a group norm on the meta device."""
    return torch.empty_like(x) if x.dim() > 1 and x.shape[1] % num_groups == 0 else None


def _linear(x: Tensor, weight: Tensor, *_: object, **__: object) -> Tensor | None:
    """The shape that a linear layer gives without values, found fast and without torch's own rules."""
    fits = x.shape[-1] == weight.shape[1]
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device) if fits else None


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: object, **others: object
) -> Tensor | None:
    """Shape of scaled dot-product attention for meta tensors, laid out in memory as torch does."""
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2] or others.get("enable_gqa"):
        return None
    weights = (*q.shape[:-1], k.shape[-2])
    if attn_mask is not None:  # relative positions: a table for windows of one size
        wide = torch.broadcast_shapes(attn_mask.shape, weights)  # type: ignore[no-untyped-call]  # torch has no types there
        if wide != weights:
            return None
    shape = (*q.shape[:-1], v.shape[-1])
    if len(shape) != _HEADS_APART:
        return torch.empty(shape, dtype=q.dtype, device=q.device)
    images, heads, tokens, channels = shape  # torch's fused kernels lay the heads of a token side by side
    return torch.empty(images, tokens, heads, channels, dtype=q.dtype, device=q.device).transpose(1, 2)


_RULES: Mapping[Callable[..., Any], Callable[..., Tensor | None]] = {
    **dict.fromkeys((F.gelu, F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.normalize), _like),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
}
