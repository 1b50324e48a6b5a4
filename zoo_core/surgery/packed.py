"""Loading the state of models whose layers hold packed integers: quantised tensors, tuples of them, and dtypes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo_core.errors import LoadMismatch, Unreadable
from zoo_core.surgery.loading import matches, mismatch

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from torch import nn

    from zoo_core.surgery.receipt import Outcome


def is_packed(model: nn.Module) -> bool:
    """Whether the state of ``model`` holds more than plain tensors.

    Example:
        >>> is_packed(torch.nn.Linear(2, 2))
        False
    """
    if not any(_saves_its_own_way(module) for module in model.modules()):
        return False
    return any(not isinstance(value, Tensor) or value.is_quantized for value in model.state_dict().values())


def _saves_its_own_way(module: torch.nn.Module) -> bool:
    """Whether its state may hold more than its parameters and buffers; making a state dict to see takes far longer."""
    kind, plain = type(module), torch.nn.Module
    ways = ("_save_to_state_dict", "get_extra_state")  # what torch.nn.Module.state_dict calls
    return any(getattr(kind, way) is not getattr(plain, way) for way in ways)


def packed_state_in(content: object, source: Path) -> Mapping[str, Any]:
    """The state in a checkpoint that was read already, with the versions of its layers, which torch notes beside it.

    Raises:
        Unreadable: There is none.
    """
    for result in (
        (content, *(content.get(key) for key in ("state_dict", "model"))) if isinstance(content, dict) else ()
    ):
        if (
            isinstance(result, dict)
            and result
            and all(isinstance(key, str) for key in result)
            and not _is_wrapper(result)
        ):
            return result
    raise Unreadable(
        f"{source} holds no state of a quantised model",
        expected="tensors and packed parameters by name, as state_dict() of such a model gives them",
        got=f"a {type(content).__name__}",
        path=source,
    )


def load_packed(
    model: nn.Module, state: Mapping[str, Any], *, ignore: Collection[str] = (), source: str = "the file"
) -> dict[str, Outcome]:
    """Load all of ``state`` into a quantised model, or say exactly what does not fit.

    Args:
        model: What to load into.
        state: Name to tensor, or to packed parameters.
        ignore: Glob patterns of names that may be in the file without being in the model.
        source: What to call the file in an error.

    Returns:
        Name to what happened to it.

    Raises:
        LoadMismatch: Something is missing, unexpected or of another shape or kind; the model may be loaded in part.
    """
    own = model.state_dict()
    ignored = [name for name in state if name not in own and matches(name, ignore)]
    given: Any = OrderedDict((name, value) for name, value in state.items() if name not in ignored)
    both = {name: (_kind(own[name]), _kind(given[name])) for name in own if name in given}
    misshaped = {name: kinds for name, kinds in both.items() if kinds[0] != kinds[1]}
    if misshaped:
        raise mismatch(model, source, [], [], misshaped)
    given._metadata = getattr(state, "_metadata", own._metadata)  # type: ignore[attr-defined]  # noqa: SLF001 - torch has no public name for it
    try:
        result = torch.nn.Module.load_state_dict(model, given, strict=False)
    except (
        RuntimeError,
        AttributeError,
        TypeError,
        KeyError,
    ) as error:  # what a layer says to values that it cannot pack
        raise LoadMismatch(
            f"{source} does not fit this {type(model).__name__}", got=f"{type(error).__name__}: {error}"
        ) from error
    if result.missing_keys or result.unexpected_keys:
        raise mismatch(model, source, result.missing_keys, result.unexpected_keys, {})
    outcomes: dict[str, Outcome] = {name: "loaded" if name in given else "adapted" for name in own}
    return {**outcomes, **dict.fromkeys(ignored, "ignored")}


def _is_wrapper(found: Mapping[str, object]) -> bool:
    return any(isinstance(value, Mapping) for value in found.values())


def _kind(value: object) -> tuple[Any, ...]:
    """What has to be alike for a value to take the place of another: the shapes, and whether they are packed."""
    if isinstance(value, Tensor):
        # a scale is [] in one version of torch and [1] in another
        shape = () if value.numel() == 1 else tuple(value.shape)
        return (*shape, *(("quantised",) if value.is_quantized else ()))
    if isinstance(value, tuple):
        return tuple(_kind(each) for each in value)
    return (value,)
