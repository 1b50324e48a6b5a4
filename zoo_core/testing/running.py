"""Running a model and looking on: its scores, the layers it calls, and what it still thinks its class count is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core.surgery.knowledge import anatomy_of
from zoo_core.testing.measure import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def scores_of(model: nn.Module, x: Tensor) -> Tensor:
    """The scores a model gives for ``x``; the first of them where it gives several."""
    return next(tensors(anatomy_of(model).scores_in(model(x))))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal bit for bit; on the meta device there are only shapes to compare."""
    return ours.shape == theirs.shape and (ours.is_meta or torch.equal(ours, theirs))


def layers_in_order(model: nn.Module, x: Tensor) -> dict[str, bool]:
    """Paths of the layers in the order of their first call, and whether each is given the picture itself.

    A layer is a module with a weight of its own.
    """
    found: dict[str, bool] = {}

    def note(path: str, given: tuple[object, ...]) -> None:
        sees = any(isinstance(each, torch.Tensor) and _is_picture(each, x) for each in given)
        found[path] = found.get(path, False) or sees

    handles = [
        module.register_forward_pre_hook(lambda _, given, path=path: note(path, given))
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _is_picture(given: Tensor, x: Tensor) -> bool:
    if given.is_meta or given.shape != x.shape:
        return given is x
    return given.data_ptr() == x.data_ptr()


def class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The integers in a model that are called a number of classes or labels, by path; those of its configs included."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            yield from _counts(f"{path}.{name}".lstrip("."), name, value)


def _counts(path: str, name: str, value: object) -> Iterator[tuple[str, int]]:
    if type(value) is int and ("class" in name or "label" in name):
        yield path, value
    elif name == "config":
        yield from ((f"{path}.{each}", found) for each, found in _own(value).items() if type(found) is int)


def _own(config: object) -> dict[str, object]:
    names = ("num_classes", "num_labels")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
