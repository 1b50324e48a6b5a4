"""The class names of the data sets that timm's classifiers were trained on, from timm's own files. No torch here.

timm says which list belongs to a classifier by the number of its classes; a name is what WordNet calls the thing, with
its synonyms.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

LISTS = {
    1000: "imagenet_1k",
    11221: "imagenet_21k_miil",
    11821: "imagenet_12k",
    21841: "imagenet_22k",
    21842: "imagenet_22k_ms",
    21843: "imagenet_21k_goog",
}
"""Number of classes to the function that names them."""


def imagenet_1k() -> tuple[str, ...]:
    """The 1000 categories of ImageNet-1K in timm's words, in the order of the outputs.

    Example:
        >>> imagenet_1k()[1]
        'goldfish, Carassius auratus'
    """
    return _names("imagenet_synsets.txt")


def imagenet_21k_miil() -> tuple[str, ...]:
    """The 11221 categories of ImageNet-21K that Alibaba's MIIL kept, in timm's words.

    Example:
        >>> len(imagenet_21k_miil())
        11221
    """
    return _names("imagenet21k_miil_synsets.txt")


def imagenet_12k() -> tuple[str, ...]:
    """The 11821 categories of ImageNet-22K that timm's author kept.

    Example:
        >>> len(imagenet_12k())
        11821
    """
    return _names("imagenet12k_synsets.txt")


def imagenet_22k() -> tuple[str, ...]:
    """The 21841 categories of the whole of ImageNet, in timm's words.

    Example:
        >>> len(imagenet_22k())
        21841
    """
    return _names("imagenet22k_synsets.txt")


def imagenet_22k_ms() -> tuple[str, ...]:
    """The categories of the whole of ImageNet as Microsoft orders them, those of ImageNet-1K first.

    Example:
        >>> imagenet_22k_ms()[:1000] == imagenet_1k()
        True
    """
    return _names("imagenet22k_ms_synsets.txt")


def imagenet_21k_goog() -> tuple[str, ...]:
    """The categories of the whole of ImageNet, in timm's words, with the two that only Google has.

    Example:
        >>> len(imagenet_21k_goog())
        21843
    """
    return _names("imagenet21k_goog_synsets.txt")


@lru_cache(maxsize=1)
def _folder() -> Path:
    """The folder of the installed timm with its lists of categories."""
    spec = find_spec("timm")  # finds it without importing it
    if spec is None or spec.origin is None:
        msg = "timm is not installed"
        raise ModuleNotFoundError(msg, name="timm")
    return Path(spec.origin).parent / "data" / "_info"


def _names(file: str) -> tuple[str, ...]:
    """The names of the categories that a file of timm's lists by synset."""
    table = (_folder() / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    lemmas = dict(line.split("\t", 1) for line in table.splitlines())
    return tuple(lemmas[synset] for synset in (_folder() / file).read_text(encoding="utf-8").splitlines())
