"""What one image costs a model, and what parts it has: counted and read on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # where torch's own flop counter has it from
from torch.utils.flop_counter import flop_registry

from zoo_core.build.construct import as_published
from zoo_core.contract.card import Card
from zoo_core.contract.cost_files import Cost, Parts
from zoo_core.errors import NotSupported
from zoo_core.surgery.metadata import anatomy_of

_LISTS = ("detection", "keypoints")


class CostCounter(TorchDispatchMode):
    """Inside the block, the convolutions, matrix products and attention that a model costs are counted.

    Attributes:
        flops: As torch's registry counts them: two for a multiply-add.
        activations: How many values these operations gave.

    Example:
        >>> with torch.no_grad(), CostCounter() as counter:
        ...     _ = torch.nn.Linear(8, 4, device="meta")(torch.empty(2, 8, device="meta"))
        >>> counter.cost
        Cost(multiply_adds=64, activations=8)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.activations = 0

    @property
    def cost(self) -> Cost:
        """What was counted so far."""
        return Cost(self.flops // 2, self.activations)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and count it."""
        options = kwargs or {}
        output = func(*args, **options)
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - as torch's counter
        if count is not None:
            self.flops += count(*args, **options, out_val=output)
            first = output[0] if isinstance(output, tuple | list) else output
            self.activations += first.numel() if isinstance(first, Tensor) else 0
        return output


def cost_of(card: Card) -> Cost:
    """What one image, or clip, of the size that it was designed for costs the model of a card.

    Raises:
        NotSupported: Its forward needs values, as detectors and quantised models do.
        ZooError: It cannot be built here.

    Example:
        >>> from zoo_core.registry.zoo import current_zoo
        >>> cost_of(current_zoo().resolve("tiny/glyphnet")[0]).multiply_adds
        3058816
    """
    if card.task in _LISTS:
        raise NotSupported(f"the cost of {card.id} depends on how many objects an image has")
    model = as_published(card).eval()
    x = torch.empty(1, *card.input_size, device="meta")
    try:
        return cost_of_run(model.to("meta"), (x, x) if card.task == "optical_flow" else (x,))
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise NotSupported(f"{card.id} does not run without values", got=f"{type(error).__name__}: {reason}") from error


def cost_of_run(model: nn.Module, inputs: tuple[Any, ...]) -> Cost:
    """What a forward costs: multiply-adds and activations, counted while it runs."""
    with torch.no_grad(), CostCounter() as counter:
        model(*inputs)
    return counter.cost


def parts_of(card: Card) -> Parts:
    """The heads and stages of the model of a card, read from it on the meta device beside counting its costs.

    Raises:
        ZooError: It cannot be built here, or nothing says where its parts are.

    Example:
        >>> from zoo_core.registry.zoo import current_zoo
        >>> print(parts_of(current_zoo().resolve("torchvision/resnet18")[0]).words[0])
        fc of 512 features
    """
    anatomy = anatomy_of(as_published(card))
    runs: list[tuple[str, str, int, int]] = []
    for stage in anatomy.stages:
        alike = bool(runs) and runs[-1][2:] == (stage.channels, stage.stride)
        first = runs.pop()[0] if alike else stage.name
        runs.append((first, stage.name, stage.channels, stage.stride))
    return Parts(tuple((site.path, site.in_features) for site in anatomy.heads), tuple(runs))
