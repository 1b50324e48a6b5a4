"""A few numbers that tell whether a model, and the preparation of its images, still give what they gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.images.preprocessing import transforms
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.utils.eval_mode import inferring

if TYPE_CHECKING:
    from PIL.Image import Image

COUNT = 8
"""How many numbers a fingerprint has."""

TOLERANCE = {"cpu": 1e-3}
"""How far numbers of one device may be apart, as a share of the largest: kernels and threads add in other orders."""
_ELSEWHERE = 1e-2
_DIGITS = 6
_SIDE = 64


def generated_image(height: int = 3 * _SIDE, width: int = 4 * _SIDE) -> Image:
    """An RGB image for fingerprints, the same everywhere: computed from integers, with smooth parts and edges.

    Example:
        >>> generated_image(2, 2).getpixel((1, 1))
        (12, 20, 28)
    """
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[:height, :width]
    blocks = 64 * ((y // 32 + x // 48) % 2)
    channels = [(5 * y + 7 * x + blocks + y * x // 31 + 8 * (c * y) % 256) % 256 for c in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def fingerprint(model: nn.Module) -> tuple[float, ...]:
    """Eight numbers of what ``model`` gives for a generated image, with its preprocessing.

    Args:
        model: A model whose preprocessing is known, on any device.

    Raises:
        NotSupported: Nothing says how images are prepared, or the model does not take one image.

    Example:
        >>> import zoo_core as zoo
        >>> len(fingerprint(zoo.get("tiny/glyphnet")))
        8
    """
    card = metadata_of(model).card
    if card is not None and card.task in ("video", "optical_flow"):
        raise NotSupported(f"a model for {card.task} does not take one image, of which fingerprints are")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    x = transforms(model)(generated_image()).to(like.device, like.dtype)
    with inferring(unwrap(model)):
        takes_a_list = card is not None and card.task in ("detection", "keypoints")
        output = anatomy_of(model).scores_in(model([x] if takes_a_list else x[None]))
    values = torch.cat([tensor.double().flatten().cpu() for tensor in _tensors_in(output)])
    i = torch.arange(len(values), dtype=torch.float64, device="cpu")
    turns = torch.cos(torch.outer(torch.arange(1, COUNT + 1, dtype=torch.float64, device="cpu"), 0.37 * i + 0.1))
    numbers = (turns @ values) / max(len(values), 1) ** 0.5
    return tuple(float(f"{number:.{_DIGITS}g}") for number in numbers.tolist())


def agrees(expected: Sequence[float], found: Sequence[float], *, device: str = "cpu") -> bool:
    """Whether two fingerprints are of one model, but for rounding.

    Example:
        >>> agrees((1.0, 2.0), (1.0, 2.0001)), agrees((1.0, 2.0), (1.0, 2.1))
        (True, False)
    """
    allowed = TOLERANCE.get(device, _ELSEWHERE) * max(map(abs, expected), default=0)
    pairs = zip(expected, found, strict=False)
    return len(expected) == len(found) and all(abs(a - b) <= allowed for a, b in pairs)  # nan agrees with nothing


def _tensors_in(output: Any) -> list[Tensor]:
    """The tensors in the output of a model, in a fixed order for its fingerprint."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for name in sorted(output) for tensor in _tensors_in(output[name])]
    if isinstance(output, Sequence):
        return [tensor for each in output for tensor in _tensors_in(each)]
    return []
