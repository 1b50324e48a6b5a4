"""The size of the images that a model was built for, where it keeps that itself."""

from __future__ import annotations

from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING

from zoo_core.registry.zoo import current_zoo

if TYPE_CHECKING:
    from torch import nn

    from zoo_core.contract.anatomy import Anatomy


def built_image_size(model: nn.Module, anatomy: Anatomy, family: str) -> tuple[int, int] | None:
    """Rows and columns of the images for which a model has position tables or windows.

    The layer that cuts the patches, or a module around it, keeps them under the name of the constructor's option.

    Args:
        model: Any model of the family.
        anatomy: Where its stem is.
        family: Name of the family.

    Returns:
        None where it keeps no such size, as a convolutional network, which takes images of any.
    """
    claims = current_zoo().claims.get(family, ())
    option = claims[0].family.image_size if claims else ""
    if not option or not anatomy.stem:
        return None
    around = accumulate(anatomy.stem[0].split(".")[:-1], "{}.{}".format)
    for path in reversed(["", *around]):
        with suppress(AttributeError):  # it keeps none, or was taken out by hand, as where timm fuses branches
            found = getattr(model.get_submodule(path), option)
            sides = (found, found) if isinstance(found, int) else found
            if isinstance(sides, tuple) and [*map(type, sides)] == [int] * 2 and min(sides) > 0:
                return sides
    return None
