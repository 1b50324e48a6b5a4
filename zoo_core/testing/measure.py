"""Looking at a model while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo_core.surgery.metadata import anatomy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

_BOX = 4


class Call(NamedTuple):
    """One call of a module: the shapes of what it was given first and of what it gave first."""

    given: torch.Size
    made: torch.Size


def calls_of(model: nn.Module, paths: Iterable[str], given: tuple[Any, ...]) -> dict[str, Call]:
    """The last call of each module in one forward pass, in the order of these; none of those that are not called."""
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
    """Whether the tensor ``name`` lies under one of the paths."""
    return any(name.startswith(f"{site}.") for site in sites)


def left_behind(model: nn.Module, before: Mapping[str, Tensor]) -> Iterator[str]:
    """Layers with as many outputs as an old head had, or four for each: heads that may have been left behind."""
    counts = [before[f"{path}.weight"].shape[0] for path in head_paths(model) if f"{path}.weight" in before]
    old = {count * outputs for count in counts for outputs in (1, _BOX)}
    for path, module in model.named_modules():
        if f"{path}.weight" in before and width_of(module) in old:
            yield path


def width_of(module: nn.Module) -> int | None:
    """How many outputs a linear layer or a convolution has; None for a layer that is neither, such as a norm."""
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) and weight.dim() > 1 else None


def head_paths(model: nn.Module) -> list[str]:
    """The paths of all head sites."""
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
    """How two tensors differ, in a few characters."""
    if ours.shape != theirs.shape:
        return f"shape, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return f"{(ours - theirs).abs().max().item():.2g}"
