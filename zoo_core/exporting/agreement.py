"""Whether an exported file gives what the model gives; and where it does not, what that is known to come from."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch

from zoo_core.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from zoo_core.exporting.formats import Run
    from zoo_core.exporting.named_outputs import NamedOutputs

_ALLOWED = 1e-3
"""How far outputs may be apart, as a share of the largest: runtimes fuse and reorder what they compute."""
_ROUNDINGS = 16
"""The same for half precision, in roundings of its type."""
_OWN, _MOST = 2, 0.05
"""The same for a model whose rounding grows with its depth, in differences from itself in float64; and at most this."""


def compare(model: NamedOutputs, run: Run, x: Tensor, *, dynamic: bool) -> tuple[float, float]:
    """The largest difference of an exported output from the model's, and the largest of its values; nan is kept.

    Of several outputs it is that of the one where it is the largest share: maps of one model differ in scale.
    """
    pairs = [[0.0, 0.0] for _ in model.names]
    for batch in [x, torch.cat([x.flip(-1), x[:1]]), x[:1]] if dynamic else [x]:
        for pair, expected, result in zip(pairs, model(batch), run(batch), strict=True):
            if expected.shape != result.shape:
                return math.inf, expected.abs().max().item()
            pair[:] = _max_or_nan(pair[0], _apart(expected, result)), _max_or_nan(pair[1], expected.abs().max().item())
    difference, largest = max(
        pairs, key=lambda pair: math.inf if math.isnan(sum(pair)) else pair[0] / max(pair[1], 1e-6)
    )
    return difference, largest


def _apart(expected: Tensor, result: Tensor) -> float:
    """The largest difference between two outputs of one shape."""
    return (expected.double() - result.to(expected.device).double()).abs().max().item()


def _max_or_nan(first: float, second: float) -> float:
    """The larger of two differences of exported outputs, nan where one is: ``max`` would lose it."""
    return first if math.isnan(first) else second if math.isnan(second) else max(first, second)


def require_agreement(
    model: NamedOutputs, run: Run, x: Tensor, difference: float, largest: float, dtype: torch.dtype
) -> None:
    """Refuse an exported file that gives other outputs than the model, and say why where that can be found.

    Args:
        model: The model with named outputs.
        run: The file, opened in its runtime.
        x: The batch it was exported with.
        difference: The largest difference between their outputs.
        largest: The largest of the model's.
        dtype: In which the model computes.

    Raises:
        ZooError: They are further apart than a share of the largest, and than the model is from itself in float64.
    """
    if not math.isfinite(largest):
        raise ZooError(
            "the model returns nan or infinity for an image of noise, so that nothing can be compared",
            done="no file was written",
            hint="zoo.activation_stats(model, x) names the layer where it begins",
        )
    share = max(_ALLOWED, _ROUNDINGS * torch.finfo(dtype).eps) if dtype.is_floating_point else _ALLOWED
    allowed = share * max(largest, 1e-6)
    if difference <= allowed:
        return
    is_random = any(not torch.equal(*pair) for pair in zip(model(x), model(x), strict=True))
    rounding = 0.0 if is_random else _own_rounding(model, x)
    if difference <= min(_OWN * rounding, _MOST * largest):
        return
    otherwise = "another format for to, or another version of torch"
    cause, hint = None, otherwise
    if is_random:
        cause, hint = "the model itself gives something else each time, in eval mode too", "a model without randomness"
    elif rounding > allowed:
        cause = f"rounding grows in the model: in float64 it gives outputs that are {rounding:.2g} from its own"
    elif _gives_images_alone(model(x), run, x, share):
        cause = "the runtime gives them for one image at a time and not for a batch, which is a fault of its own"
    raise ZooError(
        "the file gives other outputs than the model",
        expected=f"a difference of at most {share:.2g} of the largest output, {largest:.4g}",
        got=f"{difference:.4g}",
        done="no file was written",
        cause=cause,
        hint=hint,
    )


def _own_rounding(model: NamedOutputs, x: Tensor) -> float:
    """How far the outputs of a model are from its own in float64; 0 where it does not compute in that."""
    if not x.is_floating_point():
        return 0.0
    try:
        exact = copy.deepcopy(model).double()(x.double())
        return max(_apart(*pair) for pair in zip(exact, model(x), strict=True))
    except Exception:  # noqa: BLE001 - code of the model, which may make tensors of float32 itself, or cannot be copied
        return 0.0


def _gives_images_alone(expected: Sequence[Tensor], run: Run, x: Tensor, share: float) -> bool:
    """Whether an exported file gives the outputs of each image of a batch where it is given alone."""
    try:
        alone = [torch.cat(each) for each in zip(*(run(image) for image in x.chunk(len(x))), strict=True)]
    except Exception:  # noqa: BLE001 - of the runtime, where the file takes no batch of one
        return False
    return all(
        one.shape == each.shape and _apart(each, one) <= share * max(each.abs().max().item(), 1e-6)
        for one, each in zip(alone, expected, strict=True)
    )
