"""A piece of a forward pass as data: the steps that an anatomy names, and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.errors import AnatomyError

if TYPE_CHECKING:
    from torch import Tensor, nn

Step = str | Callable[[Any], Any]
"""A dotted path of a submodule to call, or a function of one tensor."""


@dataclass(frozen=True)
class Chain:
    """A piece of a forward pass: submodules, named by path, and plain functions, called one after another.

    It is given its steps one by one, ``Chain("pool", flatten)``, and called with a model and a tensor.

    Attributes:
        steps: Dotted paths of submodules that take and return one tensor, or picklable (module-level) functions of one
            tensor such as :func:`flatten`.

    Example:
        >>> from torch import nn, ones
        >>> model = nn.ModuleDict({"pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Linear(3, 2)})
        >>> Chain("pool", flatten, "fc")(model, ones(4, 3, 8, 8)).shape
        torch.Size([4, 2])

    Raises:
        AnatomyError: One of ``steps`` is neither a path nor a function, such as a list of steps.
    """

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        for step in steps:
            if not (callable(step) or (isinstance(step, str) and step)):
                raise AnatomyError(f"Chain.steps are paths and functions, given one by one; got {step!r:.80}")
        object.__setattr__(self, "steps", steps)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the modules that it calls."""
        return tuple(step for step in self.steps if isinstance(step, str))

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        """Run the steps of this chain of ``model`` on ``x``."""
        for step in self.steps:
            x = model.get_submodule(step)(x) if isinstance(step, str) else step(x)
        return x


def flatten(x: Tensor) -> Tensor:
    """A step of a chain, from pooling to a linear head: ``[N, C, 1, 1]`` or ``[N, C, H, W]`` to ``[N, C * H * W]``.

    Example:
        >>> import torch
        >>> flatten(torch.ones(4, 3, 1, 1)).shape
        torch.Size([4, 3])
    """
    return x.flatten(1)
