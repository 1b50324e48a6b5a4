"""The class names of data sets that several families share, one text file each, for ``Weights.categories``. No torch.

A catalogue names them by a short name of :data:`DATA_SETS`, such as ``categories="imagenet_1k"``, so that no file holds
a module path of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from pkgutil import resolve_name


@cache
def imagenet_1k() -> tuple[str, ...]:
    """The labels of the 1000 classes of ImageNet-1K, in the order of every library, as torchvision calls them.

    Example:
        >>> imagenet_1k()[:2]
        ('tench', 'goldfish')
    """
    return tuple(Path(__file__).with_name("imagenet_1k.txt").read_text(encoding="utf-8").splitlines())


def imagenet_1k_with_background() -> tuple[str, ...]:
    """The labels of ImageNet-1K after one for none of its classes, as TensorFlow's models number them.

    Example:
        >>> imagenet_1k_with_background()[:2]
        ('background', 'tench')
    """
    return ("background", *imagenet_1k())


DATA_SETS: dict[str, Callable[[], tuple[str, ...]]] = {
    "imagenet_1k": imagenet_1k,
    "imagenet_1k_with_background": imagenet_1k_with_background,
}
"""The class names that a catalogue can refer to by a short name."""


def named(categories: str) -> tuple[str, ...]:
    """The labels that a catalogue refers to: a short name of ours, or a ``"package.module:function"`` of a plugin.

    Example:
        >>> len(named("imagenet_1k"))
        1000
    """
    ours = categories.removeprefix("zoo_core.labels:")  # as catalogues once wrote it
    return DATA_SETS[ours]() if ours in DATA_SETS else tuple(resolve_name(categories)())
