"""What a layer is, whatever library it comes from: its kind, its tensors, and the numbers elsewhere that repeat it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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


def repeated_numbers(model: nn.Module, path: str, number: int, names: Collection[str]) -> tuple[str, ...]:
    """Dotted paths of the attributes of a model, all integers of these names, that repeat what one of its layers says.

    They are looked for in the modules around the layer, and in the configurations that these hold.

    Args:
        model: The model.
        path: Of the layer.
        number: What it says itself, such as its number of classes.
        names: What such an integer is called.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 9))
        >>> net.num_classes = 9
        >>> repeated_numbers(net, "0", 9, {"num_classes"})
        ('num_classes',)
    """
    result: dict[tuple[int, str], str] = {}
    for place, owner in _attribute_owners(model, path):
        for name in sorted(names):
            value = getattr(owner, name, None)
            if type(value) is int and value == number:
                result.setdefault((id(owner), name), f"{place}.{name}".lstrip("."))
    return tuple(result.values())


def _attribute_owners(model: nn.Module, path: str) -> Iterator[tuple[str, object]]:
    """Modules around a layer, and configs in them, by dotted path: their attributes may repeat its numbers."""
    parts = path.split(".")
    for depth in range(len(parts)):
        place = ".".join(parts[:depth])
        module = model.get_submodule(place)
        yield place, module
        for name, value in vars(module).items():
            is_record = hasattr(value, "__dict__") and not isinstance(value, type | nn.Module | Tensor)
            is_frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
            if is_record and not is_frozen and not callable(value):
                yield f"{place}.{name}".lstrip("."), value
