"""The library itself, imported without its warnings. Everything of it that this plugin uses comes through here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what importing and using the library pretrainedmodels provokes: warnings of its old ways.

    It compares strings with ``is``, and calls torchvision in the old way.

    Example:
        >>> import warnings
        >>> with quiet():
        ...     warnings.warn("The parameter 'pretrained' is deprecated since 0.13")
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", message="The parameter 'pretrained' is deprecated")
        warnings.filterwarnings("ignore", message="Arguments other than a weight enum")
        warnings.filterwarnings("ignore", message="The default weight initialization of inception_v3")
        yield


with quiet():
    import pretrainedmodels as library
    from pretrainedmodels.models.bninception import BNInception
    from pretrainedmodels.models.cafferesnet import ResNet as CaffeResNet
    from pretrainedmodels.models.dpn import DPN
    from pretrainedmodels.models.fbresnet import FBResNet
    from pretrainedmodels.models.inceptionresnetv2 import InceptionResNetV2
    from pretrainedmodels.models.inceptionv4 import InceptionV4
    from pretrainedmodels.models.nasnet import NASNetALarge
    from pretrainedmodels.models.nasnet_mobile import NASNetAMobile
    from pretrainedmodels.models.pnasnet import PNASNet5Large
    from pretrainedmodels.models.polynet import PolyNet
    from pretrainedmodels.models.resnext import ResNeXt101_32x4d, ResNeXt101_64x4d
    from pretrainedmodels.models.senet import SENet
    from pretrainedmodels.models.xception import Xception

__all__ = [
    "DPN",
    "BNInception",
    "CaffeResNet",
    "FBResNet",
    "InceptionResNetV2",
    "InceptionV4",
    "NASNetALarge",
    "NASNetAMobile",
    "PNASNet5Large",
    "PolyNet",
    "ResNeXt101_32x4d",
    "ResNeXt101_64x4d",
    "SENet",
    "Xception",
    "library",
    "quiet",
]
