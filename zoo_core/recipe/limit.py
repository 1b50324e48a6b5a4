"""How much memory the replay of a recipe may take: about what the tensors of the save do, counted beforehand.

A recipe of a hundred bytes can say a head of a billion classes. The file beside it holds every tensor of the finished
model, and its header says how large they are; so does what a replay makes, but for heads that a later edit replaced.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_core.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SPARE = 1 << 26
"""Elements beside those of the file: heads that were replaced, position tables, the batch that proves a new head."""
_TIMES = 4
"""How often the elements of the file may be allocated: a parameter, its initial values, and a copy of them."""
_SPARE_TENSORS = 20_000
_TIMES_TENSORS = 50
_SIZED = frozenset(
    f"aten::{name}"
    for name in (
        *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "empty_strided", "eye", "repeat", "new_empty"),
        *("new_zeros", "new_ones", "new_full", "new_empty_strided", "arange", "linspace", "randperm"),
    )
)
"""Operations whose arguments say how large their result is."""


class Limit(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Refuses an operation on tensors, before it is done, when its result would exceed what a save may take.

    Args:
        name: Of the model, for the message.
        tensors: What the file of the save holds.

    Example:
        >>> with Limit("tiny/glyphnet", {"weight": torch.zeros(3)}):
        ...     head = torch.nn.Linear(64, 10**9)
        Traceback (most recent call last):
        ...
        zoo_core.errors.Unreadable: the recipe of tiny/glyphnet makes far larger tensors than its save holds
        ...
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._name = name
        self._elements = _SPARE + _TIMES * sum(tensor.numel() for tensor in tensors.values())
        self._tensors = _SPARE_TENSORS + _TIMES_TENSORS * len(tensors)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever func returns
        kwargs = kwargs or {}
        size = _result_size(func, args)
        if size > self._elements:
            raise self._refusal(f"{size:,} elements where {self._elements:,} may still come")
        if _is_sized(func):
            self._elements -= size
            self._tensors -= 1
        if self._tensors < 0:
            raise self._refusal("more tensors than any model of this size has")
        return func(*args, **kwargs)

    def _refusal(self, got: str) -> Unreadable:
        return Unreadable(
            f"the recipe of {self._name} makes far larger tensors than its save holds",
            got=got,
            done="it was stopped before they were allocated",
            cause="recipe.json was changed by hand",
        )


def _is_sized(func: Callable[..., Any]) -> bool:
    return func._schema.name in _SIZED  # type: ignore[attr-defined]  # noqa: SLF001 - how torch names an operation


def _result_size(func: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """How many elements the result has, as far as that can grow beyond the arguments; 0 where it cannot."""
    if _is_sized(func):
        sizes = next((each for each in args if isinstance(each, list | tuple)), None)
        own = args[0].numel() if func._schema.name == "aten::repeat" else 1  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        numbers = sizes if sizes is not None else [max((abs(n) for n in args if isinstance(n, int | float)), default=0)]
        return int(own * math.prod(max(0, int(n)) for n in numbers))
    if torch.Tag.pointwise in func.tags:  # type: ignore[attr-defined]
        shapes = [each.shape for each in args if isinstance(each, Tensor)]
        if len(shapes) > 1:
            return math.prod(max(sizes) for sizes in zip(*map(_padded(max(map(len, shapes))), shapes), strict=True))
    return 0


def _padded(rank: int) -> Callable[[torch.Size], tuple[int, ...]]:
    return lambda shape: (*(1,) * (rank - len(shape)), *shape)
