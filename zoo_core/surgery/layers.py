"""What a layer is, whatever library it comes from: its kind, its tensors, and its widths."""

from __future__ import annotations

from torch import Tensor, nn

_NORMS = (
    nn.modules.batchnorm._NormBase,  # noqa: SLF001 - the base of batch and instance norm of every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalizes: one of torch's, one derived from them, or one that a library wrote itself.

    Example:
        >>> is_norm(nn.GroupNorm(2, 4)), is_norm(nn.Linear(2, 2))
        (True, False)
    """
    if isinstance(module, _NORMS):
        return True
    # Libraries write their own, such as FrozenBatchNorm2d: called a norm, with a scale for each channel.
    scale = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and not list(module.children()) and getattr(scale, "dim", int)() == 1


def has_nothing_to_score_with(module: nn.Module) -> bool:
    """Whether ``module`` has no kind of layer that could weigh features, but norms at most: it gives them again.

    Example:
        >>> has_nothing_to_score_with(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)))
        True
    """
    norms = tuple(f"{path}." if path else "" for path, each in module.named_modules() if is_norm(each))
    return all(name.startswith(norms) for name in module.state_dict())


def is_bias(name: str) -> bool:
    """Whether a tensor of that name is what a layer adds: ``bias``, ``in_proj_bias``, ``bias_ih_l0``, ``q_bias``.

    Example:
        >>> is_bias("fc.bias"), is_bias("attention.in_proj_bias"), is_bias("blocks.0.relative_position_bias_table")
        (True, True, False)
    """
    own = name.rpartition(".")[2]
    return own.startswith("bias") or own.endswith("bias")


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that a layer holds itself, without those of its children."""
    held = {**module._parameters, **module._buffers}  # noqa: SLF001 - named_* would drop tensors that are shared
    return {name: tensor for name, tensor in held.items() if tensor is not None}


def layers_with_width(module: nn.Module) -> list[nn.Module]:
    """The layers in a module, which may be one itself, that say how many features or channels they take."""
    return [layer for layer in module.modules() if input_width(layer)]


def input_width(layer: nn.Module) -> int:
    """How many features or channels a layer takes; 0 where it does not say so.

    Example:
        >>> input_width(nn.Linear(8, 4)), input_width(nn.ReLU())
        (8, 0)
    """
    return _width(layer, "in_features", "in_channels")


def output_width(layer: nn.Module) -> int:
    """How many features or channels a layer gives; 0 where it does not say so."""
    return _width(layer, "out_features", "out_channels")


def _width(layer: nn.Module, *names: str) -> int:
    """A width of a layer: the first of these attributes that is an integer."""
    return next((value for name in names if isinstance(value := getattr(layer, name, None), int)), 0)
