"""Running a model and looking on: its scores, the layers it calls, and what it still thinks its class count is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.measure import tensors
from zoo_core.testing.under_test import only_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def scores_of(model: nn.Module, *given: Any) -> Tensor:  # noqa: ANN401 - whatever models of its task are called with
    """The scores a model gives for what it is called with; the first of them where it gives several."""
    return next(tensors(anatomy_of(model).scores_in(model(*given))))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal bit for bit; on the meta device their shapes, and the verdict says so."""
    if ours.is_meta:
        only_shapes("values")
    return ours.shape == theirs.shape and (ours.is_meta or torch.equal(ours, theirs))


def layers_in_order(model: nn.Module, given: tuple[Any, ...]) -> dict[str, bool]:
    """Paths of the layers in the order of their first call, and whether each is given the picture itself.

    A layer is a module with a weight of its own.
    """
    found: dict[str, bool] = {}

    pictures = [*tensors(given)]

    def note(path: str, taken: tuple[object, ...]) -> None:
        sees = any(isinstance(each, torch.Tensor) and _is_one_of(pictures, each) for each in taken)
        found[path] = found.get(path, False) or sees

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
    return found


def _is_one_of(pictures: list[Tensor], given: Tensor) -> bool:
    return any(
        given is x or (not given.is_meta and given.shape == x.shape and given.data_ptr() == x.data_ptr())
        for x in pictures
    )


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
