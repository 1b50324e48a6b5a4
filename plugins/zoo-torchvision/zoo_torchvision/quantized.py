"""Models whose numbers are 8-bit integers: nothing in them can be trained, so nothing can be replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.plugin import Anatomy

if TYPE_CHECKING:
    from torch import nn

_PACKAGE = "torch.ao.nn.quantized"


def is_quantized(model: nn.Module) -> bool:
    """Whether a model was built with ``quantize=True``, or quantised later; one that only can be is not.

    Example:
        >>> from torch import nn
        >>> is_quantized(nn.Linear(2, 2))
        False
    """
    # FloatFunctional, which a model that can be quantised has too, is of the same package.
    kinds = {type(module) for module in model.modules()}
    return any(kind.__module__.startswith(_PACKAGE) and kind.__name__ != "FloatFunctional" for kind in kinds)


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a quantised model: no head, stem or stages, as its layers hold packed integers, not parameters.

    Args:
        model: A quantised model.
    """
    return Anatomy(
        heads=(),
        headless=(
            f"the layers of this {type(model).__name__} are quantised and have no parameters; change the float model "
            "and quantise that: the name without quantized_, or for a quantized_ name options={'quantize': False} "
            "with weights=None"
        ),
    )
