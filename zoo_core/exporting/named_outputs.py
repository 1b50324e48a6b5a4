"""A model with one tensor in and named tensors out, as runtimes take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.head.read import Outputs
from zoo_core.surgery.metadata import unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

_AUXILIARY = "aux"


class NamedOutputs(nn.Module):
    """A model whose outputs are a tuple of tensors in the order of ``names``.

    Args:
        model: What runs; shared, not copied.
        names: The outputs that are kept; ``("scores",)`` for a model that returns a tensor.
        softmax: Whether scores become probabilities; those that the model gives already, and embeddings, stay.

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
        self.outputs = Outputs.of(model)
        self.training = self.model.training

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """A batch of images to the outputs."""
        output = by_name(self.outputs, self.model(image))
        result = {name: output[name] for name in self.names}
        return tuple(self._probabilities(name, each) if self.softmax else each for name, each in result.items())

    def _probabilities(self, name: str, scores: Tensor) -> Tensor:
        head = name if self.outputs.heads else ""
        return scores if head in self.outputs.embeddings else self.outputs.probabilities(scores, head)


def by_name(outputs: Outputs, returned: Any) -> dict[str, Tensor]:  # noqa: ANN401 - any model's output
    """The tensors that a model returned by name; those that only help in training are left out.

    Args:
        outputs: How what the model returns is read.
        returned: What it returned.

    Raises:
        NotSupported: It returned something else than a tensor or a dict of tensors.
    """
    output = outputs.read(returned) if outputs.heads else outputs.scores_in(returned)
    if isinstance(output, Tensor):
        return {"scores": output}
    if isinstance(output, Mapping) and output and all(isinstance(each, Tensor) for each in output.values()):
        return {name: each for name, each in output.items() if outputs.heads or name != _AUXILIARY}
    raise NotSupported(
        f"an output of the type {type(output).__name__} has no place in an exported graph",
        expected="a tensor, or a dict of tensors",
    )
