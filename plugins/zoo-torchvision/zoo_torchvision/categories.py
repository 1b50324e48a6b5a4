"""The class names of the data sets that torchvision's weights were trained on, one text file each. No torch here."""

from __future__ import annotations

from importlib.resources import files


def imagenet_1k() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1K, in the order of the outputs.

    Example:
        >>> imagenet_1k()[:2]
        ('tench', 'goldfish')
    """
    return _read("imagenet_1k")


def _read(name: str) -> tuple[str, ...]:
    text = files("zoo_torchvision").joinpath("labels", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
