"""The class names of data sets that several families share, one text file each, for ``Weights.categories``. No torch.

A catalogue names a function of this module, such as ``categories="zoo_core.labels:imagenet_1k"``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def imagenet_1k() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1K, in the order in which every library numbers them, as torchvision calls them.

    Example:
        >>> imagenet_1k()[:2]
        ('tench', 'goldfish')
    """
    return tuple(Path(__file__).with_name("imagenet_1k.txt").read_text(encoding="utf-8").splitlines())


def imagenet_1k_with_background() -> tuple[str, ...]:
    """The same after a class for none of them, as TensorFlow's models number them.

    Example:
        >>> imagenet_1k_with_background()[:2]
        ('background', 'tench')
    """
    return ("background", *imagenet_1k())
