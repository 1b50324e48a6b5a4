"""What a model under test gives: the tensors and scores in its outputs, and whether two outputs are the same."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.under_test import only_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


_OF_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
"""Folders of code that is not the library's."""


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


def scores_of(model: nn.Module, *given: Any) -> Tensor:
    """The scores in the output of a model under test; the first of them where it gives several."""
    return next(tensors(anatomy_of(model).scores_in(model(*given))))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs are equal bit for bit; on the meta device their shapes, and the verdict says so."""
    if ours.is_meta:
        only_shapes("values")
    return ours.shape == theirs.shape and (ours.is_meta or torch.equal(ours, theirs))


def parameters_used(model: nn.Module, result: Tensor) -> dict[str, nn.Parameter]:
    """The parameters of a model under test that an output was computed with, by name: those in its graph.

    Args:
        model: The one whose parameters they are.
        result: What it, or a part of it, gave while gradients were recorded.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> [*parameters_used(model, model[1](model[0](torch.ones(1, 2)).detach()))]
        ['1.weight', '1.bias']
    """
    seen: set[Any] = set()
    waiting = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [each for each, _ in node.next_functions]
    used = {id(node.variable) for node in seen if hasattr(node, "variable")}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in used}


class Call(NamedTuple):
    """Shapes of what a module in a model under test is given in a forward pass, and of its output: first of each."""

    given: torch.Size
    made: torch.Size


def calls_of(model: nn.Module, paths: Iterable[str], given: tuple[Any, ...]) -> dict[str, Call]:
    """What modules in a model under test are given and output in a forward pass, at the last call; none not called."""
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


def line_of_caller() -> str:
    """The line of code that calls a function of torch in a model under test, with its file; empty if none is known."""
    frame = sys._getframe(1)  # noqa: SLF001 - the way to a caller's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OF_OTHERS):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f" in {Path(file).name}:{frame.f_lineno} ({line})" if line else ""
