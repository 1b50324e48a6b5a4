"""A model with one tensor in and named tensors out, as runtimes take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.card import Preprocessing
from zoo_core.errors import NotSupported
from zoo_core.recipe.open_model import gives_features
from zoo_core.surgery.features.encoder import Encoder
from zoo_core.surgery.head.scores import Outputs
from zoo_core.surgery.metadata import unwrap

_RGB = 3
_AUXILIARY = "aux"
"""What torchvision calls the output of a head that only helps in training."""


class Prepare(nn.Module):
    """What a model with named outputs may begin with: the end of a preprocessing, from images as they are decoded.

    Decoded images are bytes, ``[N, H, W, C]``.

    It computes what :func:`zoo_core.transforms` does after the resize and the crop, in the same order. No runtime
    resizes as PIL does, so that those two stay outside.

    Args:
        requested: The preprocessing, with a number for each channel.
        like: A batch that the model takes; a video has its frames before the rows, ``[N, T, H, W, C]`` as bytes.

    Example:
        >>> import torch, zoo_core as zoo
        >>> requested = zoo.Preprocessing(mean=(0.5,), std=(0.5,))
        >>> Prepare(requested, torch.zeros(1, 1, 2, 2))(torch.full((1, 2, 2, 1), 255, dtype=torch.uint8)).shape
        torch.Size([1, 1, 2, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, requested: Preprocessing, like: Tensor) -> None:
        super().__init__()
        sides = [1] * (like.ndim - 2)
        self.register_buffer("mean", torch.tensor(requested.mean, device=like.device).view(-1, *sides))
        self.register_buffer("std", torch.tensor(requested.std, device=like.device).view(-1, *sides))
        self.white = requested.value_range
        self.turns = requested.channel_order == "BGR" and len(requested.mean) == _RGB
        self.dtype = like.dtype

    def forward(self, images: Tensor) -> Tensor:
        """Bytes to a batch."""
        x = images.movedim(-1, 1).float().div(255)
        x = x.flip(1) if self.turns else x
        x = x if self.white == 1 else x * self.white
        return ((x - self.mean) / self.std).to(self.dtype)


class NamedOutputs(nn.Module):
    """A model whose outputs are a tuple of tensors in the order of ``names``.

    Args:
        model: What runs; shared, not copied. What is wrapped around it, such as ``torch.compile``, is left out.
        prepare: What a batch goes through first; None for nothing.
        softmax: Whether scores become probabilities; those that the model gives already, and embeddings, stay.

    Attributes:
        names: The outputs, which are known after the first batch.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = NamedOutputs(zoo.get("tiny/glyphnet").eval(), softmax=True)
        >>> model(torch.zeros(2, 1, 32, 32))[0].sum(1).round(), model.names
        (tensor([1., 1.], grad_fn=<RoundBackward0>), ('scores',))
    """

    def __init__(self, model: nn.Module, *, prepare: nn.Module | None = None, softmax: bool = False) -> None:
        super().__init__()
        self.model = model if isinstance(model, Encoder) else unwrap(model)
        self.prepare = prepare or nn.Identity()
        self.names: tuple[str, ...] = ()
        self.softmax = softmax
        self.outputs = Outputs.of(model)
        self.training = self.model.training

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """A batch of images to the outputs."""
        output = self._by_name(self.model(self.prepare(image)))
        if not self.names:
            self.names = tuple(output)
        return tuple(self._probabilities(name, each) if self.softmax else each for name, each in output.items())

    def _probabilities(self, name: str, scores: Tensor) -> Tensor:
        head = name if self.outputs.heads else ""
        return scores if head in self.outputs.embeddings else self.outputs.probabilities(scores, head)

    def _by_name(self, returned: Any) -> dict[str, Tensor]:
        """Tensors of a model's output by name, to be returned as a tuple; those only for training are left out."""
        if isinstance(self.model, Encoder):
            return {
                name or f"map{i}": each for i, (name, each) in enumerate(zip(self.model.names, returned, strict=True))
            }
        output = self.outputs.read(returned) if self.outputs.heads else self.outputs.scores_in(returned)
        if isinstance(output, Tensor):
            return {"features" if gives_features(self.model) else "scores": output}
        if isinstance(output, Mapping) and output and all(isinstance(each, Tensor) for each in output.values()):
            return {str(name): each for name, each in output.items() if self.outputs.heads or name != _AUXILIARY}
        raise NotSupported(
            f"an output of the type {type(output).__name__} has no place in an exported graph",
            expected="a tensor, or a dict of tensors",
        )


def input_name(outputs: Sequence[str]) -> str:
    """The name of the input beside the named outputs: ``"image"``, or one that no output has.

    Example:
        >>> input_name(("scores",)), input_name(("image", "shape"))
        ('image', 'input_image')
    """
    name = "image"
    while name in outputs:
        name = f"input_{name}"
    return name
