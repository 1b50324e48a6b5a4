"""Where the parts of the tiny family's models are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.plugin import Anatomy, Chain, Head, Stage, flatten

if TYPE_CHECKING:
    from zoo_tiny.model import GlyphNet


def anatomy(model: GlyphNet) -> Anatomy:
    """The anatomy of a built :class:`~zoo_tiny.model.GlyphNet`, read from its modules.

    Args:
        model: Any GlyphNet whose head is a linear layer.

    Example:
        >>> from zoo_tiny.model import glyphnet
        >>> main = anatomy(glyphnet(num_classes=9)).main
        >>> main.path, main.in_features, main.num_classes
        ('fc', 64, 9)
    """
    stages = {"layer1": (model.layer1, 2), "layer2": (model.layer2, 4), "layer3": (model.layer3, 8)}
    return Anatomy(
        heads=(Head("fc", in_features=model.fc.in_features, num_classes=model.fc.out_features),),
        stem=("stem.0",),
        stages=tuple(
            Stage(name, (name,), channels=block.bn2.num_features, stride=stride)
            for name, (block, stride) in stages.items()
        ),
        features=Chain("stem", *stages),
        pool=Chain("pool", flatten),
    )
