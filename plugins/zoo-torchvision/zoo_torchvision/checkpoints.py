"""Old names of tensors: what torchvision renames in a file it published, before it loads it. No torch here.

What its modules rename by themselves, in every ``load_state_dict``, is not repeated: ViT's MLPs, and the pyramids,
region proposals and heads of its detectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def densenet(state: Mapping[str, Any], model: object) -> dict[str, Any]:  # noqa: ARG001 - the contract of Weights.convert
    """Rename the tensors in torchvision's old checkpoints of DenseNet: ``norm.1.weight`` becomes ``norm1.weight``.

    The published files are older than the rule that a module's name has no dot in it.

    Args:
        state: The state dict of a file.
        model: The model it is for.

    Example:
        >>> list(densenet({"features.denseblock1.denselayer2.norm.1.weight": 0}, None))
        ['features.denseblock1.denselayer2.norm1.weight']
    """
    return {match[1] + match[2] if (match := _DENSE.fullmatch(key)) else key: value for key, value in state.items()}
