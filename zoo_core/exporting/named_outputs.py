"""A model with one tensor in and named tensors out, as runtimes take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.metadata import anatomy_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

_AUXILIARY = "aux"


class NamedOutputs(nn.Module):
    """A model whose outputs are a tuple of tensors in the order of ``names``.

    Args:
        model: What runs; shared, not copied.
        names: The outputs that are kept; ``("scores",)`` for a model that returns a tensor.
        softmax: Whether scores become probabilities.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet").eval()
        >>> found = NamedOutputs(model, ("scores",), softmax=True)(torch.zeros(2, 1, 32, 32))
        >>> found[0].sum(1).round()
        tensor([1., 1.], grad_fn=<RoundBackward0>)
    """

    def __init__(self, model: nn.Module, names: Sequence[str], *, softmax: bool = False) -> None:
        super().__init__()
        self.model = unwrap(model)
        self.names = tuple(names)
        self.softmax = softmax
        self.anatomy = anatomy_of(model)
        self.training = self.model.training

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """A batch of images to the outputs."""
        output = self.anatomy.scores_in(self.model(image))
        result = tuple(output[name] for name in self.names) if isinstance(output, Mapping) else (output,)
        return tuple(each.softmax(1) for each in result) if self.softmax else result


def names_in(output: Any) -> tuple[str, ...]:  # noqa: ANN401 - any model's output
    """The names of the tensors that a model returned; those that only help in training are left out.

    Raises:
        NotSupported: It returned something else than a tensor or a dict of tensors.
    """
    if isinstance(output, Tensor):
        return ("scores",)
    if isinstance(output, Mapping) and output and all(isinstance(each, Tensor) for each in output.values()):
        return tuple(name for name in output if name != _AUXILIARY)
    raise NotSupported(
        f"an output of the type {type(output).__name__} has no place in an exported graph",
        expected="a tensor, or a dict of tensors",
    )
