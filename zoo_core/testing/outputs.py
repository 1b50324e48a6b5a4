"""Running a model and looking on: its scores, the layers it calls, and what it still thinks its class count is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.under_test import only_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn


_BOX = 4


class Call(NamedTuple):
    """One call of a module in a forward pass: the shapes of its first input and of its first output."""

    given: torch.Size
    made: torch.Size


def calls_of(model: nn.Module, paths: Iterable[str], given: tuple[Any, ...]) -> dict[str, Call]:
    """Input and output of the last call of each module in one forward pass, as they run; none of those not called."""
    seen: dict[str, Call] = {}

    def note(path: str, x: tuple[Any, ...], made: object) -> None:
        shapes = [each.shape for each in tensors((x[0], made))]
        seen.pop(path, None)
        seen[path] = Call(shapes[0], shapes[1])

    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _, x, made, path=path: note(path, x, made))
        for path in paths
    ]
    try:
        with torch.no_grad():
            model(*given)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def inside(name: str, sites: Sequence[str]) -> bool:
    """Whether the tensor ``name`` is inside one of the head sites, or of other modules at these paths."""
    return any(name.startswith(f"{site}.") for site in sites)


def left_behind(model: nn.Module, before: Mapping[str, Tensor]) -> Iterator[str]:
    """Layers with as many outputs as an old head had, or four for each: heads that may have been left."""
    counts = [before[f"{path}.weight"].shape[0] for path in _head_paths(model) if f"{path}.weight" in before]
    old = {count * outputs for count in counts for outputs in (1, _BOX)}
    for path, module in model.named_modules():
        if f"{path}.weight" in before and width_of(module) in old:
            yield path


def width_of(module: nn.Module) -> int | None:
    """How many outputs a linear layer or a convolution has; None for a layer that is neither, such as a norm."""
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) and weight.dim() > 1 else None


def _head_paths(model: nn.Module) -> list[str]:
    """The paths of all head sites, whose outputs are counted."""
    return [head.path for head in anatomy_of(model).heads]


def tensors(output: object) -> Iterator[Tensor]:
    """The tensors in what a model returned: itself, or those of a tuple, a mapping or a library's output object."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors(item)
    elif hasattr(output, "__dict__"):
        yield from tensors(vars(output))


def difference(ours: Tensor, theirs: Tensor) -> str:
    """How two outputs differ, in a few characters."""
    if ours.shape != theirs.shape:
        return f"shape, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return f"{(ours - theirs).abs().max().item():.2g}"


def scores_of(model: nn.Module, *given: Any) -> Tensor:  # noqa: ANN401 - whatever models of its task are called with
    """The scores a model gives for what it is called with; the first of them where it gives several."""
    return next(tensors(anatomy_of(model).scores_in(model(*given))))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs are equal bit for bit; on the meta device their shapes, and the verdict says so."""
    if ours.is_meta:
        only_shapes("values")
    return ours.shape == theirs.shape and (ours.is_meta or torch.equal(ours, theirs))


def layers_in_order(model: nn.Module, given: tuple[Any, ...]) -> dict[str, bool]:
    """Run a model and look on: its layers in the order of their first call, and whether each is given the image.

    A layer is a module with a weight of its own.
    """
    result: dict[str, bool] = {}

    images = [*tensors(given)]

    def note(path: str, taken: tuple[object, ...]) -> None:
        sees = any(isinstance(each, torch.Tensor) and _is_one_of(images, each) for each in taken)
        result[path] = result.get(path, False) or sees

    handles = [
        module.register_forward_pre_hook(lambda _, taken, path=path: note(path, taken))
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
    ]
    try:
        with torch.no_grad():
            model(*given)
    finally:
        for handle in handles:
            handle.remove()
    return result


def _is_one_of(images: list[Tensor], given: Tensor) -> bool:
    """Whether a layer that runs is given one of the images themselves."""
    return any(
        given is x or (not given.is_meta and given.shape == x.shape and given.data_ptr() == x.data_ptr())
        for x in images
    )


def class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The integers that a model still takes for its number of classes or labels, by path; configs included."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            yield from _attribute_counts(f"{path}.{name}".lstrip("."), name, value)


def _attribute_counts(path: str, name: str, value: object) -> Iterator[tuple[str, int]]:
    """Class counts in one attribute of a model: an integer that is called so, or those of its config."""
    if type(value) is int and ("class" in name or "label" in name):
        yield path, value
    elif name == "config":
        yield from ((f"{path}.{each}", result) for each, result in _config_counts(value).items() if type(result) is int)


def _config_counts(config: object) -> dict[str, object]:
    """Class counts in the config of a model that was run."""
    names = ("num_classes", "num_labels")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
