"""Finding the stem of a traced model: its first layers, and the numbers of the model that repeat their channels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zoo_core.surgery.features.forward import run_forward
from zoo_core.tracing.last_layers import owner
from zoo_core.utils.attributes import get_attribute, is_of_module, repeated_numbers, set_attribute
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.meta_shapes import MetaShapes

if TYPE_CHECKING:
    from zoo_core.tracing.passes import Passes
    from zoo_core.tracing.recording import Op


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNEL_COUNTS = frozenset(
    {
        "num_channels",
        "n_channels",
        "in_channels",
        "in_chans",
        "in_ch",
        "input_channels",
        "num_input_channels",
        "channels",
    }
)
_JOINING = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})
"""Functions after which the input is still there as it was, beside features."""
_RESAMPLING = frozenset({"grid_sample", "grid_sampler"})
"""Functions after which the first of what they are given is still there, wherever features have moved its pixels."""
_ARITHMETIC = frozenset(
    {"add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "imul", "div", "truediv", "rtruediv", "true_divide"}
    | {"idiv", "itruediv", "addcmul", "normalize"}
)
"""Functions that take one number a channel, such as a mean, beside the input."""


def find_stem(passes: Passes) -> tuple[str, ...]:
    """Find the stem of a traced model: the paths of the first parametric layers that see the input."""
    result = {owner(op, parameters): None for op, parameters in _ops_on_input(passes) if parameters}
    return tuple(path for path in result if path)


def numbers_per_channel(passes: Passes, stem: Sequence[str]) -> tuple[str, ...]:
    """Names of the buffers with one number for each input channel that forward computes with before a stem.

    One that it needs elsewhere too, such as a mean that is added to an image that it gives, is left out.
    """
    flow, buffers = passes.evaluated, dict(passes.model.named_buffers())
    layers = [passes.model.get_submodule(path) for path in stem]
    counts = {layer.in_channels for layer in layers if isinstance(layer, _CONVOLUTIONS)} - {1}
    if not any(_is_per_channel(each, counts) for each in buffers.values()):
        return ()
    before = [op for op, learned in _ops_on_input(passes) if op.name in _ARITHMETIC and not learned]
    used = dict.fromkeys(name for op in before for name in flow.parameters_of(op))
    others = [op for op in flow.recording.ops if flow.moving(op) and not any(op is each for each in before)]
    elsewhere = {name for op in others for name in flow.parameters_of(op)}
    return tuple(name for name in used if name not in elsewhere and _is_per_channel(buffers.get(name), counts))


def _ops_on_input(passes: Passes) -> Iterator[tuple[Op, list[str]]]:
    """Recorded ops given the input, or what became of it without parameters, each with the parameters it uses."""
    flow = passes.evaluated
    learned = {name for name, _ in passes.model.named_parameters(remove_duplicate=False)}
    seen = {*flow.recording.inputs}
    for op in flow.recording.ops:
        moving = flow.moving(op)[:1] if op.name in _RESAMPLING else flow.moving(op)
        is_first = op.name in _JOINING or seen.issuperset(moving)  # else features that the input masks
        if not is_first or seen.isdisjoint(op.inputs):
            continue
        parameters = [name for name in flow.parameters_of(op) if name in learned]
        yield op, parameters
        if not parameters:
            seen.update(op.outputs)


def channel_counts(passes: Passes, stem: Sequence[str]) -> tuple[str, ...]:
    """Paths of the integers that repeat the number of input channels, in the modules around a stem's convolutions.

    A configuration says it by name. One that a module keeps, and mere ``channels``, may mean anything else, such as
    those of an output: they count only where forward refuses more channels while they say the old number.
    """
    layers = {path: passes.model.get_submodule(path) for path in stem}
    numbers = {path: layer.in_channels for path, layer in layers.items() if isinstance(layer, _CONVOLUTIONS)}
    paths = (repeated_numbers(passes.model, path, number, _CHANNEL_COUNTS) for path, number in numbers.items())
    result = [*dict.fromkeys(each for found in paths for each in found)]
    for each in [*result]:
        if not is_of_module(passes.model, each) and not each.endswith(".channels"):
            continue
        others = [other for other in result if other != each]
        if _takes_more_channels(passes, numbers, others):
            result = others
    return tuple(result)


def _takes_more_channels(passes: Passes, numbers: Mapping[str, int], attributes: Iterable[str]) -> bool:
    """Whether forward takes one channel more, where the stem and the numbers that repeat its channels say so."""
    model, counts = duplicate(passes.model), {*numbers.values()}

    def wider(x: Any) -> Any:
        is_image = isinstance(x, Tensor) and x.dim() > 2 and x.shape[1] in counts  # noqa: PLR2004 - [N, C, L]
        return torch.cat([x, x[:, :1]], 1) if is_image else x

    try:
        with torch.no_grad(), evaluating(model), MetaShapes():
            for path, number in numbers.items():
                layer: Any = model.get_submodule(path)
                layer.weight, layer.in_channels = nn.Parameter(wider(layer.weight)), number + 1
            for path in attributes:
                set_attribute(model, path, get_attribute(model, path) + 1)
            run_forward(model, tree_map(wider, passes.x))
    except Exception:  # noqa: BLE001 - the model's own code
        return False
    return True


def _is_per_channel(value: object, counts: Collection[int]) -> bool:
    """Whether a value is a tensor of fractions with one number for each channel, such as ``[1, 3, 1, 1]``."""
    is_fraction = isinstance(value, Tensor) and value.is_floating_point()
    return is_fraction and value.numel() in counts and value.numel() in value.shape  # type: ignore[attr-defined]
