"""Looking at a model while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo_core.surgery.knowledge import anatomy_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

_TOKEN_AXES = 3


def inputs_of(model: nn.Module, path: str, x: Tensor) -> list[Tensor]:
    """What the module at ``path`` is given in one forward pass, call by call."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen


def stage_maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The outputs of all stages by name; none when the stages do not take a picture of this size."""
    maps: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(stage.output).register_forward_hook(
            lambda _, __, made, stage=stage: maps.__setitem__(stage.name, stage.map_in(model, made))
        )
        for stage in anatomy_of(model).stages
    ]
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError, AssertionError):  # how models say that they take one size only
        if len(maps) < len(handles):  # where the head alone is that strict, the maps are good
            return {}
    finally:
        for handle in handles:
            handle.remove()
    return maps


def channels_and_sides(layout: str, shape: torch.Size) -> tuple[int, tuple[int, ...]]:
    """Channels and sides of a map; tokens, which have three axes, have no sides."""
    if len(shape) == _TOKEN_AXES or layout == "NLC":
        return shape[-1], ()
    return (shape[1], tuple(shape[2:])) if layout == "NCHW" else (shape[-1], tuple(shape[1:-1]))


def inside(name: str, sites: Sequence[str]) -> bool:
    """Whether the tensor ``name`` lies under one of the paths."""
    return any(name.startswith(f"{site}.") for site in sites)


def left_behind(model: nn.Module, before: Mapping[str, Tensor]) -> Iterator[str]:
    """Modules with as many outputs as the old head had, whose weight is as it was: heads that were left behind."""
    old = {before[f"{path}.weight"].shape[0] for path in head_paths(model) if f"{path}.weight" in before}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        width = getattr(module, "out_features", None)
        if width in old and weight is not None and weight.shape[0] == width and f"{path}.weight" in before:
            yield path


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
