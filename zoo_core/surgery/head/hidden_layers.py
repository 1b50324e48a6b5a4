"""The hidden layers of a classifier, such as VGG's, and what a head site is given without them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from zoo_core.contract.chain import Chain, flatten
from zoo_core.errors import NotSupported
from zoo_core.surgery.features.split import Absent

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from zoo_core.contract.anatomy import Anatomy, Head


def without_hidden(model: nn.Module, anatomy: Anatomy, main: Head) -> tuple[Head, dict[str, nn.Module]]:
    """The head site as it is when the hidden layers before it are gone, and the empty places they leave.

    Hidden are the first linear layer between pooling and head, and all that follows it: VGG's two, with their ReLU and
    dropout. A classifier that has none stays as it is.

    Raises:
        NotSupported: The family does not say which layers come before the head, or forward computes between them.
    """
    if not isinstance(anatomy.pool, Chain):
        raise NotSupported(
            "the hidden layers of this model cannot be dropped",
            cause="what its family does between features and head is one function, in which no layer can be told apart",
            hint='zoo.swap_head(model, head, at="features") puts a head of your own behind the feature map',
        )
    steps = anatomy.pool.steps
    layers = [model.get_submodule(step) if isinstance(step, str) else None for step in steps]
    first = next((index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)), None)
    if first is None:
        return main, {}
    functions = [step for step in steps[first:] if not isinstance(step, str) and step is not flatten]
    if functions:
        raise NotSupported(
            "the hidden layers of this model cannot be dropped",
            cause=f"its forward calls {getattr(functions[0], '__name__', functions[0])} between them",
            hint='zoo.swap_head(model, head, at="features") puts a head of your own behind the feature map',
        )
    hidden = layers[first]
    width = hidden.in_features if isinstance(hidden, nn.Linear) else main.in_features
    gone: dict[str, nn.Module] = {step: Absent() for step in steps[first:] if isinstance(step, str)}
    return replace(main, in_features=width), gone


def between(model: nn.Module, anatomy: Anatomy, features: Tensor) -> dict[str, nn.Module]:
    """An empty place for each module between feature map and head that has parameters.

    Args:
        model: In eval mode.
        anatomy: Where its parts are.
        features: What its features give; a pool that is a function runs on it once, to be watched.
    """
    if anatomy.pool is None:
        return {}
    if isinstance(anatomy.pool, Chain):
        run = [step for step in anatomy.pool.steps if isinstance(step, str)]
    else:
        run = _run_in(model, partial(anatomy.pool, model, features))
    sites = [head.path for head in anatomy.heads]
    paths: list[str] = []
    for path in run:
        holds_head = any(f"{site}.".startswith(f"{path}.") for site in sites)
        within = any(path.startswith(f"{other}.") for other in paths)
        if not holds_head and not within and next(model.get_submodule(path).parameters(), None) is not None:
            paths.append(path)
    return {path: Absent() for path in paths}


def _run_in(model: nn.Module, piece: Callable[[], Any]) -> list[str]:
    """Paths of the modules that run in a piece of a forward pass, those that hold others first."""
    seen: set[nn.Module] = set()
    handles = [part.register_forward_pre_hook(lambda part, _: seen.add(part)) for part in model.modules()]
    try:
        piece()
    finally:
        for handle in handles:
            handle.remove()
    return [path for path, part in model.named_modules() if part in seen and path]
