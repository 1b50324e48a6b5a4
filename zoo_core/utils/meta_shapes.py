"""Running a model without values fast: the shapes of its most frequent layers, found without torch's own rules.

On the meta device torch finds the shape of a norm, of attention or of a linear layer by decomposing it in Python,
which takes a millisecond each, and that of a sum in a tenth of one: three quarters of the time that a network of a
hundred layers needs there, and more where gradients are recorded. Their shapes are known without that. What a layer
would refuse is left to torch, which has the words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from math import prod
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.overrides import TorchFunctionMode

_HEADS_APART = 4
_inside: ContextVar[bool] = ContextVar("inside", default=False)


class MetaShapes(TorchFunctionMode):
    """Inside the block, frequent layers on the meta device give their shapes at once, and gradients flow through them.

    Inside another such block it does nothing more: each mode is given every look at a shape or a dtype.

    Example:
        >>> with torch.no_grad(), MetaShapes():
        ...     torch.nn.BatchNorm2d(3, device="meta").eval()(torch.empty(2, 3, 8, 8, device="meta")).shape
        torch.Size([2, 3, 8, 8])
    """

    def __enter__(self) -> Self:
        """Begin the block."""
        self._token = None if _inside.get() else _inside.set(True)
        return self if self._token is None else super().__enter__()  # type: ignore[no-untyped-call]  # torch has no types there

    def __exit__(self, *error: object) -> None:
        """End the block."""
        if self._token is not None:
            _inside.reset(self._token)
            super().__exit__(*error)  # type: ignore[no-untyped-call]  # as above

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer for a function of torch."""
        if function not in _RULES:  # as most are, looks at shapes among them
            return function(*args, **(kwargs or {}))
        return with_meta_shapes(function, args, kwargs or {})


def with_meta_shapes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a function of torch gives: on the meta device at once where the shape is known, and else by torch itself.

    Example:
        >>> with_meta_shapes(F.relu, (torch.empty(2, 3, device="meta"),), {}).shape
        torch.Size([2, 3])
    """
    rule = _RULES.get(function)
    if rule is None or not (args and isinstance(args[0], Tensor) and args[0].is_meta):
        return function(*args, **kwargs)
    inputs = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    is_traced = torch.is_grad_enabled() and any(each.requires_grad for each in inputs)
    if is_traced and not (function in _KEPT and all(each.is_meta for each in inputs)):
        return function(*args, **kwargs)
    with torch.no_grad():
        result = rule(*args, **kwargs)
    if result is None or (is_traced and result is args[0]):
        return function(*args, **kwargs)
    return _Traced.apply([result], _KEPT[function](result, *args, **kwargs), *inputs) if is_traced else result


class _Traced(torch.autograd.Function):
    """A layer on the meta device in the graph of gradients; each of its inputs gets a gradient of its own shape.

    What torch keeps for the gradients of the layer is kept here too: where that is written to before they are
    computed, torch raises the same error.
    """

    @staticmethod
    def forward(ctx: Any, result: list[Tensor], kept: Sequence[object], *inputs: Tensor) -> Tensor:
        """Give the output, of which the shape is known by now; in a list, autograd does not take it for an input."""
        ctx.save_for_backward(*(each for each in kept if isinstance(each, Tensor)))
        ctx.inputs = [(each.shape, each.dtype) for each in inputs]
        return result[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Give a gradient to each input that needs one."""
        ctx.saved_tensors  # noqa: B018 - torch looks whether they were written to
        given = zip(ctx.inputs, ctx.needs_input_grad[2:], strict=True)
        gradients = (
            torch.empty(shape, dtype=dtype, device="meta") if needed else None for (shape, dtype), needed in given
        )
        return None, None, *gradients


def _like(x: Tensor, *_: object, inplace: bool = False, **__: object) -> Tensor:
    """The shape that an activation gives on the meta device, or another layer that keeps the shape of its input."""
    return x if inplace else _empty(x)


def _sigmoid(x: Tensor) -> Tensor | None:
    """The shape of a sigmoid on the meta device; that of integers is of another dtype."""
    return _empty(x) if x.is_floating_point() else None


def _empty(x: Tensor) -> Tensor:
    """An output of the shape and the layout of an input on the meta device; torch finds that of any input, slowly."""
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return (
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
        if _is_dense(x)
        else torch.empty_like(x)
    )


def _is_dense(x: Tensor) -> bool:
    """Whether an input fills its memory without gaps, in any order of axes: layers on the meta device keep that."""
    step = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    *_: object,
    **__: object,
) -> Tensor | None:
    """The shape of a batch norm on the meta device."""
    fits = all(given is None or given.shape == x.shape[1:2] for given in (running_mean, running_var, weight, bias))
    has_spread = not training or x.numel() > prod(x.shape[1:2])  # torch refuses one number a channel in train mode
    return _empty(x) if fits and has_spread else None


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], *_: object, **__: object) -> Tensor | None:
    """The shape of a layer norm on the meta device."""
    fits = x.shape[x.dim() - len(normalized_shape) :] == tuple(normalized_shape)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device) if fits else None


def _group_norm(x: Tensor, num_groups: int, *_: object, **__: object) -> Tensor | None:
    """The shape of a group norm on the meta device."""
    return _empty(x) if x.is_contiguous() and x.dim() > 1 and x.shape[1] % num_groups == 0 else None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """The shape of a convolution on the meta device, where torch lays it out without gaps whatever its input is."""
    if isinstance(padding, str):
        return None
    axes = weight.dim() - 2
    steps, pads, gaps = ([each] * axes if isinstance(each, int) else each for each in (stride, padding, dilation))
    if not len(steps) == len(pads) == len(gaps) == axes or min(*steps, *gaps) < 1 or min(pads) < 0:
        return None
    fits = x.dim() == weight.dim() and x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    fits = fits and (bias is None or bias.shape == weight.shape[:1]) and x.numel() > 0
    if not fits or any(each is not None and each.dtype is not x.dtype for each in (weight, bias)):
        return None
    sides = [
        (side + 2 * pad - gap * (size - 1) - 1) // step + 1
        for side, size, step, pad, gap in zip(x.shape[2:], weight.shape[2:], steps, pads, gaps, strict=True)
    ]
    return torch.empty((len(x), len(weight), *sides), dtype=x.dtype, device=x.device) if min(sides) > 0 else None


def _linear(x: Tensor, weight: Tensor, *_: object, **__: object) -> Tensor | None:
    """The shape that a linear layer gives without values, found fast and without torch's own rules."""
    fits = x.shape[-1] == weight.shape[1]
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device) if fits else None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: object, **others: object
) -> Tensor | None:
    """Shape of scaled dot-product attention for meta tensors, laid out in memory as torch does."""
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2] or others.get("enable_gqa"):
        return None
    weights = (*query.shape[:-1], key.shape[-2])
    if attn_mask is not None:  # relative positions: a table for windows of one size
        wide = torch.broadcast_shapes(attn_mask.shape, weights)  # type: ignore[no-untyped-call]  # torch has no types there
        if wide != weights:
            return None
    shape = (*query.shape[:-1], value.shape[-1])
    if len(shape) != _HEADS_APART:
        return torch.empty(shape, dtype=query.dtype, device=query.device)
    # torch's fused kernels lay the heads of a token side by side
    return torch.empty_permuted(shape, (0, 2, 1, 3), dtype=query.dtype, device=query.device)


def _sum(x: Tensor, other: object, **others: object) -> Tensor | None:
    """The shape of a sum or a product on the meta device, where it is that of one of the operands."""
    if not isinstance(other, Tensor):
        return (
            _empty(x) if type(other) in (int, float) and x.is_floating_point() and not others and _is_dense(x) else None
        )
    if others or not other.is_meta or other.dtype is not x.dtype:
        return None
    if _holds(x.shape, other.shape):
        return _empty(x) if _is_dense(x) else None
    fits = _holds(other.shape, x.shape) and x.is_contiguous() and other.is_contiguous()
    return _empty(other) if fits else None


def _holds(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether an operand of the other shape is expanded to the first one on the meta device."""
    sides = zip(reversed(shape), reversed(other), strict=False)
    return len(other) <= len(shape) and all(own in (1, side) for side, own in sides)


def _power(x: Tensor, exponent: object) -> Tensor | None:
    """The shape of a power on the meta device."""
    return None if isinstance(exponent, Tensor) else _sum(x, exponent)


def _mean(x: Tensor, dim: int | Sequence[int] = (), keepdim: bool = False, **others: object) -> Tensor | None:  # noqa: FBT001, FBT002 - as torch has it
    """The shape of a mean over some axes on the meta device."""
    axes = [dim] if isinstance(dim, int) else [*(dim or ())]
    over = {axis % x.dim() for axis in axes if -x.dim() <= axis < x.dim()}
    if not over or len(over) < len(axes) or others or not (x.is_contiguous() and x.is_floating_point()):
        return None
    shape = [1 if axis in over else size for axis, size in enumerate(x.shape) if keepdim or axis not in over]
    return torch.empty(shape, dtype=x.dtype, device=x.device)


_RULES: Mapping[Callable[..., Any], Callable[..., Tensor | None]] = {
    **dict.fromkeys((F.gelu, F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.normalize), _like),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.linear: _linear,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
    **dict.fromkeys((Tensor.sigmoid, torch.sigmoid), _sigmoid),
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((Tensor.add, Tensor.sub, Tensor.mul, torch.add, torch.sub, torch.mul), _sum),
    **dict.fromkeys((Tensor.pow, torch.pow), _power),
    **dict.fromkeys((Tensor.mean, torch.mean), _mean),
}


def _kept_by_batch_norm(
    _: Tensor,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,  # noqa: ARG001 - as torch has it
    training: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    *__: object,
    **___: object,
) -> Sequence[object]:
    """Of the inputs of a batch norm on the meta device, those that its backward pass keeps, as torch's rule would."""
    return (x, weight) if training else (x, weight, running_mean, running_var)


def _kept_by_product(_: Tensor, x: Tensor, other: object) -> Sequence[object]:
    """Of the factors of a product on the meta device, those that its backward pass keeps: each for the other one."""
    return x if isinstance(other, Tensor) and other.requires_grad else None, other if x.requires_grad else None


_KEPT: Mapping[Callable[..., Any], Callable[..., Sequence[object]]] = {
    **dict.fromkeys((F.relu, Tensor.sigmoid, torch.sigmoid), lambda output, *_, **__: (output,)),
    **dict.fromkeys(
        (F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.relu6, F.hardtanh, F.normalize, Tensor.pow, torch.pow),
        lambda _, x, *__, **___: (x,),
    ),
    F.batch_norm: _kept_by_batch_norm,
    F.layer_norm: lambda _, x, __, weight=None, bias=None, *___, **____: (x, weight, bias),
    **dict.fromkeys((F.rms_norm, F.group_norm), lambda _, x, __, weight=None, *___, **____: (x, weight)),
    F.linear: lambda _, x, weight, *__, **___: _kept_by_product(_, x, weight),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), lambda _, x, weight, *__, **___: (x, weight)),
    **dict.fromkeys((Tensor.mul, torch.mul), _kept_by_product),
    F.scaled_dot_product_attention: lambda _, query, key, value, *__, **___: (query, key, value),
    **dict.fromkeys((Tensor.add, Tensor.sub, Tensor.mean, torch.add, torch.sub, torch.mean), lambda *_, **__: ()),
}
"""What torch keeps of the inputs of a layer, or of its output, to compute the gradients of it with."""
