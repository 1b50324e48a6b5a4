"""A model as it was published with its default weights: made on the meta device, and signed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo_core.build.construct import construct
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.weights.checkpoint.signatures import Signature, sign

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.contract.card import Card


def signature_of(card: Card) -> Signature:
    """The signature of a model as published: as its default weights have it.

    Args:
        card: Of the model.

    Raises:
        ZooError: It cannot be built here.

    Example:
        >>> from zoo_core.registry.zoo import current_zoo
        >>> signature_of(current_zoo().resolve("tiny/glyphnet")[0]).count
        47
    """
    return _signature_of_model(card.id, as_published(card))


def as_published(card: Card) -> nn.Module:
    """The model as published: as its default weights have it, without values.

    Args:
        card: Of the model.

    Raises:
        ZooError: It cannot be built here.

    Example:
        >>> from zoo_core.registry.zoo import current_zoo
        >>> as_published(current_zoo().resolve("tiny/glyphnet")[0]).fc.weight.device.type
        'meta'
    """
    entry = next((each for each in card.weights if each.tag == card.default), None)
    options = {**card.options, **(entry.options if entry else {})}
    try:
        with torch.device("meta"):
            return construct(card, options, values=True)
    except Exception:  # noqa: BLE001 - some constructors compute with numbers, which the meta device has not
        return construct(card, options, values=False)


def _signature_of_model(name: str, model: nn.Module) -> Signature:
    """The signature of a published model, which zoo knows, under a name."""
    anatomy = anatomy_of(model)
    apart = {*(site.path for site in anatomy.heads), *(f"{path}.weight" for path in anatomy.stem)}
    apart |= {anatomy.keypoints} if anatomy.keypoints else set()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if hasattr(value, "shape")}
    return sign(name, shapes, apart)
