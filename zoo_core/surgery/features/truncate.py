"""Cutting a network and using the front."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo_core.errors import UsageError
from zoo_core.surgery.features.cut import absent, front, needs_tap
from zoo_core.surgery.features.extract import stage_index, tapped
from zoo_core.surgery.features.forward import own_hooks, recompose
from zoo_core.surgery.features.twin import replaced
from zoo_core.surgery.knowledge import anatomy_of, attach, knowledge_of, record_edit, unwrap
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import nn


@strict_arguments
def truncate(model: nn.Module, *, after: str) -> nn.Module:
    """The front of ``model``, up to a stage: it gives the feature map of that stage and holds nothing after it.

    The front shares its parameters with the model, which stays whole. Its class is a subclass
    of the model's, of the same name, and its state-dict keys are
    those of the model as far as it goes. All surgery that needs no head works on it.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; not changed.
        after: Name of the last stage that stays.

    Returns:
        The front: ``[N, C, H, W]`` to what the stage gives, such as ``[N, channels, H / stride, W / stride]``.
        That of a module which takes several values is given them as one tuple or dict, as :func:`zoo_core.features` is.

    Raises:
        UnknownPart: There is no such stage; the message lists the stages.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> front = zoo.truncate(zoo.get("resnet18", weights=None), after="layer3")
        >>> front(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 256, 4, 4])
        >>> sum(parameter.numel() for parameter in front.parameters())
        2782784
    """
    if not isinstance(after, str):
        raise UsageError(f"after cannot be {after!r}", expected="the name of a stage, such as 'layer3'")
    kept = stage_index(model, after) + 1
    bare = unwrap(model)
    run = front(bare, kept)
    twin = replaced(bare, absent(bare, lambda depth: depth > kept))
    twin = tapped(twin, needs_tap(run))
    own_hooks(twin)
    read = anatomy_of(model).stages[kept - 1].read
    run = run if read is None else MapOf(run, read)
    only_front(bare, twin, kept, run, f"it was cut after {after!r}")
    record_edit(twin, "truncate", after=after)
    return twin


@dataclass(frozen=True)
class MapOf:
    """``(model, x)`` to the map in what the last stage of a truncated model gives.

    Attributes:
        run: ``(model, x)`` to what the stage gives.
        read: ``(model, output)`` to the map in it, as the stage has it.
    """

    run: Callable[[Any, Any], Any]
    read: Callable[[Any, Any], Any]

    def __call__(self, model: nn.Module, x: Any) -> Any:  # noqa: ANN401 - whatever the front takes
        """Run the front, and take the map out of what it gives."""
        return self.read(model, self.run(model, x))


def only_front(model: nn.Module, to: nn.Module, kept: int, run: Callable[[Any, Any], Any], headless: str) -> None:
    """Make ``to``, which holds the front of ``model``, run as a truncated model does, and know that it is one.

    Args:
        model: The whole.
        to: What is left of it; changed in place.
        kept: How many stages are left.
        run: ``(to, x)`` to what the front gives.
        headless: Why it has no head.
    """
    known = knowledge_of(model)
    anatomy = replace(
        anatomy_of(model),
        heads=(),
        stages=known.anatomy.stages[:kept],
        features=run,
        pool=None,
        classify=None,
        scores=None,
        headless=headless,
    )
    left = to.state_dict()
    tensors = {name: what for name, what in known.receipt.tensors.items() if name in left}
    attach(to, replace(known, anatomy=anatomy, receipt=replace(known.receipt, tensors=tensors)))
    recompose(to, anatomy)
